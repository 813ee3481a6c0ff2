//! What has to be true of sites whatever befell them, by what no agent can embellish: every version of the
//! lease in the store, every version of both Clusters with who wrote it, and what clients were told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use tokio::time::Instant;

use super::super::double::Double;
use super::super::double::cluster::Cluster;
use super::super::manifest::NAMES;
use super::site::{AGENT, Two};
use crate::live::client::{Pinned, store_clock};

/// The store forgets old versions; far fewer are written in this time.
const LOOK: Duration = Duration::from_millis(100);

/// A version of the lease, and when it was written, by the store's clock.
#[derive(Clone, Debug)]
pub(in crate::cnpg) struct Lease {
    pub(in crate::cnpg) at: Duration,
    pub(in crate::cnpg) record: Value,
}

/// A version of a Cluster.
#[derive(Clone, Debug)]
pub(in crate::cnpg) struct Version {
    pub(in crate::cnpg) at: Duration,
    pub(in crate::cnpg) by: String,
    pub(in crate::cnpg) object: Value,
}

/// All that was seen of some sites.
#[derive(Clone, Debug, Default)]
pub(in crate::cnpg) struct Story {
    /// In the order they were written.
    pub(in crate::cnpg) leases: Vec<Lease>,
    /// By site; one that was built anew is another one from then on.
    pub(in crate::cnpg) clusters: Vec<(&'static str, Vec<Version>)>,
    /// When what was acknowledged was sent, and by which member it was.
    pub(in crate::cnpg) acknowledged: Vec<(Duration, String)>,
    /// The sites of members that are instances; any other member is a site.
    pub(in crate::cnpg) homes: BTreeMap<String, &'static str>,
}

impl Lease {
    pub(super) fn holder(&self) -> &str {
        self.record["holder"].as_str().unwrap_or_default()
    }
}

impl Version {
    fn cluster(&self) -> Cluster<'_> {
        Cluster(&self.object)
    }
}

impl Story {
    /// Nothing that must not have happened did.
    pub(in crate::cnpg) fn judge(&self) -> Result<(), String> {
        self.who_writes_holds_the_lease()?;
        self.takeovers_are_of_what_is_fenced_or_expired()?;
        self.roles_are_asked_for_by_the_holder()?;
        self.instances_are_appointed_by_the_holder()?;
        self.all_are_fenced_by_who_acts()?;
        self.tokens_are_used_once()
    }

    /// The site of a member.
    fn home<'a>(&self, member: &'a str) -> &'a str {
        self.homes.get(member).copied().unwrap_or(member)
    }

    fn lease_at(&self, at: Duration) -> Option<&Lease> {
        self.leases.iter().rev().find(|lease| lease.at <= at)
    }

    /// An epoch has one holder: whoever acknowledges in it is that one.
    fn who_writes_holds_the_lease(&self) -> Result<(), String> {
        for (at, member) in &self.acknowledged {
            let Some(lease) = self.lease_at(*at) else { continue };
            if lease.holder() != member {
                return Err(format!(
                    "{member} acknowledged at {at:?} what was sent under {lease:?}"
                ));
            }
        }
        Ok(())
    }

    /// Who takes over from somebody else has his word, with the proof of his fence, or has waited for as
    /// long as he counts on the lease.
    fn takeovers_are_of_what_is_fenced_or_expired(&self) -> Result<(), String> {
        for pair in self.leases.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            if new.record["epoch"].as_u64() < old.record["epoch"].as_u64() {
                return Err(format!("the epoch goes back: {old:?}, {new:?}"));
            }
            if old.holder() == new.holder() {
                continue;
            }
            if old.record["epoch"] == new.record["epoch"] {
                return Err(format!("two hold one epoch: {old:?}, {new:?}"));
            }
            let counts_on =
                Duration::from_millis(old.record["lease_duration_ms"].as_u64().unwrap_or(0));
            let fenced = !old.record["released"]["fence"].is_null();
            if !fenced && new.at.saturating_sub(old.at) < counts_on {
                return Err(format!("neither fenced nor expired: {old:?}, {new:?}"));
            }
        }
        Ok(())
    }

    fn versions(&self) -> impl Iterator<Item = (&'static str, &Version, &Version)> {
        let all = self.clusters.iter();
        all.flat_map(|(site, list)| list.windows(2).map(|pair| (*site, &pair[0], &pair[1])))
    }

    /// A site becomes a primary's, or loses its fence as one, by its agent only while that holds the lease.
    fn roles_are_asked_for_by_the_holder(&self) -> Result<(), String> {
        for (site, old, new) in self.versions().filter(|(_, _, new)| new.by == AGENT) {
            let (was, is) = (old.cluster(), new.cluster());
            let promoted = was.is_replica() && !is.is_replica();
            let opened = was.is_fenced("*") && !is.is_fenced("*") && !is.is_replica();
            if !promoted && !opened {
                continue;
            }
            let holds = |lease: &Lease| {
                self.home(lease.holder()) == site && lease.record["released"].is_null()
            };
            if !self.lease_at(new.at).is_some_and(holds) {
                let lease = self.lease_at(new.at);
                let what = if promoted { "promoted" } else { "unfenced" };
                return Err(format!("{site} was {what} at {:?} under {lease:?}", new.at));
            }
        }
        Ok(())
    }

    /// An agent has CloudNativePG make another instance the primary only while that one holds the lease. In a
    /// replica site nobody becomes writable by that.
    fn instances_are_appointed_by_the_holder(&self) -> Result<(), String> {
        for (site, old, new) in self.versions().filter(|(_, _, new)| new.by == AGENT) {
            let (was, is) = (old.cluster(), new.cluster());
            if was.target() == is.target() || is.is_replica() {
                continue;
            }
            let holds =
                |lease: &Lease| lease.holder() == is.target() && lease.record["released"].is_null();
            if !self.lease_at(new.at).is_some_and(holds) {
                let lease = self.lease_at(new.at);
                let (who, at) = (is.target(), new.at);
                return Err(format!("{who} was appointed in {site} at {at:?} under {lease:?}"));
            }
        }
        Ok(())
    }

    /// A fence of a site with several instances is for all of them: the agent beside another one than the one
    /// that acts would stop that one.
    fn all_are_fenced_by_who_acts(&self) -> Result<(), String> {
        for (site, old, new) in self.versions().filter(|(_, _, new)| new.by == AGENT) {
            let (was, is) = (old.cluster(), new.cluster());
            if was.is_fenced("*") || !is.is_fenced("*") {
                continue;
            }
            let mark = is.annotation("harmony-agent.io/fence").unwrap_or_default();
            let mark: Value = serde_json::from_str(mark).unwrap_or_default();
            let member = mark["member"].as_str().unwrap_or_default();
            if self.homes.contains_key(member) && member != is.current() {
                return Err(format!("{member} fenced {site} at {:?}: {:#}", new.at, new.object));
            }
        }
        Ok(())
    }

    /// Each is given by a site that was demoted, goes to one other, and promotes once.
    fn tokens_are_used_once(&self) -> Result<(), String> {
        let mut given: BTreeMap<&str, (&str, Duration)> = BTreeMap::new();
        for (site, _, new) in self.versions() {
            let token = new.cluster().text("/status/demotionToken");
            given.entry(token).or_insert((site, new.at));
        }
        let (mut sent, mut used) = (BTreeMap::new(), BTreeMap::new());
        for (site, old, new) in self.versions() {
            let (was, is) = (old.cluster(), new.cluster());
            if !is.token().is_empty() && is.token() != was.token() {
                let Some((by, at)) = given.get(is.token()).filter(|(_, at)| *at <= new.at) else {
                    return Err(format!("nobody gave the token of {site} at {:?}", new.at));
                };
                if *by == site || *sent.entry(is.token()).or_insert(site) != site {
                    return Err(format!("the token that {by} gave at {at:?} came to {site}, too"));
                }
                if !self.is_replica_at(by, new.at) {
                    return Err(format!("{site} has the token of {by}, which is no replica"));
                }
            }
            let last = is.text("/status/lastPromotionToken");
            if !last.is_empty() && last != was.text("/status/lastPromotionToken") {
                let times = used.entry(last).or_insert(0);
                *times += 1;
                if *times > 1 {
                    return Err(format!("{site} was promoted by a used token at {:?}", new.at));
                }
            }
        }
        Ok(())
    }

    fn is_replica_at(&self, site: &str, at: Duration) -> bool {
        let all = self.clusters.iter().filter(|(name, _)| *name == site).flat_map(|(_, list)| list);
        let last = all.filter(|version| version.at <= at).max_by_key(|version| version.at);
        last.is_some_and(|version| version.cluster().is_replica())
    }
}

/// Follows the lease while a test goes on.
pub(in crate::cnpg) struct Witness {
    leases: Arc<Mutex<BTreeMap<i64, Lease>>>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Witness {
    /// Of what is in this store from now on.
    pub(in crate::cnpg) fn start(store: PathBuf) -> Self {
        let (leases, end) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Arc::<AtomicBool>::default());
        let (noted, told) = (Arc::clone(&leases), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let store = Connection::open(store).unwrap();
            store.busy_timeout(Duration::from_secs(10)).unwrap();
            loop {
                // What was written before the end is to be seen.
                let last = told.load(Ordering::Relaxed);
                note(&store, &noted);
                if last {
                    return;
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { leases, end, thread: Some(thread) }
    }

    fn ended(mut self) -> Vec<Lease> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.values().cloned().collect()
    }

    /// Nothing that must not have happened did.
    pub(super) fn judge(self, two: &Two, clients: &Pinned) {
        let sites = [&two.a, &two.b].map(|site| (site.name, &site.double));
        let members = NAMES.map(str::to_owned);
        if let Err(why) = self.story(&sites, &members, BTreeMap::new(), clients).judge() {
            panic!("{why}\n{}", super::settle::told(two));
        }
    }

    /// All that was seen of `sites`; `members` in the order of the clients.
    pub(in crate::cnpg) fn story(
        self,
        sites: &[(&'static str, &Double)],
        members: &[String],
        homes: BTreeMap<String, &'static str>,
        clients: &Pinned,
    ) -> Story {
        let leases = self.ended();
        assert!(!leases.is_empty(), "nobody held a lease");
        let acknowledged = clients.sent().into_iter();
        Story {
            leases,
            clusters: sites.iter().flat_map(|(name, double)| lives(name, double)).collect(),
            acknowledged: acknowledged.map(|(at, by)| (at, members[by].clone())).collect(),
            homes,
        }
    }
}

fn note(store: &Connection, noted: &Mutex<BTreeMap<i64, Lease>>) {
    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = noted.last_key_value().map_or(0, |(revision, _)| *revision);
    let sql =
        "SELECT revision, value, created FROM revisions WHERE key = 'lease' AND revision > ?1";
    let mut statement = store.prepare_cached(sql).unwrap();
    let rows = statement.query_map([newest], |row| {
        let (revision, value, at): (i64, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((revision, value, Duration::from_nanos(u64::try_from(at).unwrap())))
    });
    for row in rows.unwrap() {
        let (revision, value, at) = row.unwrap();
        let envelope: Value = serde_json::from_slice(&value).unwrap();
        noted.insert(revision, Lease { at, record: envelope["lease"].clone() });
    }
}

/// The versions of a site's Clusters, one after the other.
fn lives(name: &'static str, double: &Double) -> Vec<(&'static str, Vec<Version>)> {
    let (now, clock) = (Instant::now(), store_clock());
    let mut lives = vec![(name, Vec::new())];
    for change in double.changes(name) {
        if change.kind == "DELETED" {
            lives.push((name, Vec::new()));
            continue;
        }
        let at = clock.saturating_sub(now.saturating_duration_since(change.at));
        let version = Version { at, by: change.by, object: change.object };
        lives.last_mut().unwrap().1.push(version);
    }
    lives
}
