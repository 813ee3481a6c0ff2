//! The store is away, or another one stands in its place: what becomes of the primary meanwhile, and of
//! everybody when the store is back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rusqlite::Connection;
use rustix::process::Pid;
use tokio::time::sleep;

use super::{AFTER, AWAY, Bench, LOOK, Taken};
use crate::cli::demo::cluster::REJOIN;
use crate::cli::demo::facts::{Broken, Facts, Fate, StoreFacts};
use crate::cli::demo::ledger::SharedLedger;
use crate::cli::demo::member::Member;
use crate::cli::demo::report::{Milliseconds, Phases};
use crate::cli::demo::said::Said;
use crate::config;
use crate::core::time::Instant;
use crate::postmaster::now;
use crate::store;

/// How long the demo waits for the store's file.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it was before the store went away.
#[derive(Debug)]
struct Before {
    primary: usize,
    epoch: u64,
    /// The postmaster of each member.
    servers: Vec<Option<Pid>>,
}

/// How it was right before the store came back.
#[derive(Debug)]
struct Meanwhile {
    fate: Fate,
    /// Alarms of the primary about the store.
    alarms: Vec<String>,
    /// Last commit of any client, when the primary was fenced.
    last_commit: Option<Duration>,
}

impl Bench<'_> {
    /// The store takes no writes for a while: another process has locked its file.
    ///
    /// # Errors
    /// Somebody took over meanwhile, or the primary did otherwise than promises allow ([`Broken`]), or it
    /// was not over when the store was back.
    pub(super) async fn store_outage(
        &mut self,
        ledger: &SharedLedger,
        primary: usize,
    ) -> anyhow::Result<Taken> {
        let before = self.before(primary).await?;
        let lock = lock(&self.store_file()?)?;
        let at = now();
        self.cluster.board.say("the store takes no writes");
        let time = self.long_enough();
        let when = "while the store took no writes";
        self.nobody_takes_over(ledger, primary, (at, time), when).await?;
        let meanwhile = self.meanwhile(ledger, &before, at).await?;
        drop(lock);
        let facts = self.all_back(ledger, &before, (at, now()), meanwhile).await?;
        let gap = self.gap(ledger, at, now());
        let facts = Some(Facts::StoreOutage(facts));
        Ok(Taken { gap, phases: Phases::default(), rejoin: None, facts })
    }

    /// A new, empty store stands in the place of the store for a while; nobody obeys it. Then the old one
    /// is put back, and nothing is restarted.
    ///
    /// # Errors
    /// As of an outage; somebody wrote into the new store ([`Broken`]); or somebody did not say that it is
    /// another one.
    pub(super) async fn store_replace(
        &mut self,
        ledger: &SharedLedger,
        primary: usize,
    ) -> anyhow::Result<Taken> {
        let before = self.before(primary).await?;
        let file = self.store_file()?;
        let at = now();
        let replaced = self.replace(&file).await?;
        self.cluster.board.say("a new, empty store stands in the place of the store");
        let met = |said: &[Option<Said>]| {
            said.iter().all(|it| it.as_ref().is_some_and(Said::refuses_store))
        };
        let said =
            self.cluster.until("every member says that it is another store", AWAY, met).await;
        said.map_err(|error| Broken(error.to_string()))?;
        let alarmed = now().since(at);
        let time = self.long_enough();
        let when = "while another store stood in the place of the store";
        self.nobody_takes_over(ledger, primary, (at, time), when).await?;
        let meanwhile = self.meanwhile(ledger, &before, at).await?;
        let written = records(&file).await?;
        if written > 0 {
            let text = format!("{written} records were written into a store that nobody may obey");
            return Err(Broken(text).into());
        }
        replaced.put_back()?;
        let facts = self.all_back(ledger, &before, (at, now()), meanwhile).await?;
        let facts = StoreFacts {
            alarmed_ms: Some(Milliseconds::of(alarmed)),
            written: Some(written),
            ..facts
        };
        let gap = self.gap(ledger, at, now());
        let facts = Some(Facts::StoreReplace(facts));
        Ok(Taken { gap, phases: Phases::default(), rejoin: None, facts })
    }

    fn store_file(&self) -> anyhow::Result<PathBuf> {
        match &self.config.store {
            config::Store::Sqlite(settings) => Ok(settings.path.clone()),
            config::Store::Nats(_) => bail!("the NATS servers are not the demo's to stop"),
        }
    }

    async fn before(&self, primary: usize) -> anyhow::Result<Before> {
        let said = self.said(primary).await?;
        let servers = self.cluster.members.iter().map(Member::postmaster).collect();
        Ok(Before { primary, epoch: said.epoch, servers })
    }

    async fn said(&self, index: usize) -> anyhow::Result<Said> {
        let end = now() + PATIENCE;
        loop {
            match self.cluster.members[index].ask().await {
                Some(said) => return Ok(said),
                None if now() > end => {
                    bail!("the agent of {} does not answer", self.cluster.members[index].name)
                }
                None => sleep(LOOK).await,
            }
        }
    }

    /// What became of the primary since `at`, and whether it is what its promises allow.
    async fn meanwhile(
        &self,
        ledger: &SharedLedger,
        before: &Before,
        at: Instant,
    ) -> anyhow::Result<Meanwhile> {
        let said = self.said(before.primary).await?;
        let name = &self.cluster.members[before.primary].name;
        let policy = &self.config.policy;
        let fate = if said.leads() { Fate::RodeOut } else { Fate::Fenced };
        // Every other member is there, and the demo gives them all a secret to promise with.
        let broken = match (policy.promises, fate) {
            (true, Fate::RodeOut) | (false, Fate::Fenced) => None,
            (true, Fate::Fenced) => Some(format!(
                "{name} is {} without the store, although every other member could promise",
                said.state
            )),
            (false, Fate::RodeOut) => {
                Some(format!("{name} goes on without the store, and without promises"))
            }
        };
        let last = ledger.lock().last_before(now()).map(|ack| ack.at.since(at));
        let last_commit = last.filter(|_| fate == Fate::Fenced);
        let late = last_commit.filter(|last| *last > policy.lease_duration);
        let late =
            late.map(|last| format!("a commit was acknowledged {last:.1?} after the last renewal"));
        match broken.or(late) {
            Some(text) => Err(Broken(text).into()),
            None => Ok(Meanwhile { fate, alarms: said.alarms_of_store(), last_commit }),
        }
    }

    /// Waits until everything is as before now that the store is back, by itself.
    async fn all_back(
        &mut self,
        ledger: &SharedLedger,
        before: &Before,
        (at, back): (Instant, Instant),
        meanwhile: Meanwhile,
    ) -> anyhow::Result<StoreFacts> {
        let away = back.since(at);
        self.cluster.board.say(format!("the store is back after {away:.1?}"));
        let met = |said: &[Option<Said>]| {
            said.iter().all(|it| it.as_ref().is_some_and(|it| it.alarms_of_store().is_empty()))
        };
        self.cluster.until("nobody has an alarm about the store", REJOIN, met).await?;
        let primary = self.cluster.all_follow(REJOIN).await?;
        let healed = now().since(back);
        self.served(ledger).await?;
        sleep(AFTER).await;
        let epoch = self.said(primary).await?.epoch;
        let servers = self.cluster.members.iter().map(Member::postmaster);
        let restarted = servers.zip(&before.servers).filter(|(now, then)| now != *then).count();
        let facts = StoreFacts {
            away_ms: Milliseconds::of(away),
            fate: meanwhile.fate,
            alarms: meanwhile.alarms,
            last_commit_ms: meanwhile.last_commit.map(Milliseconds::of),
            back_ms: Milliseconds::of(healed),
            epochs: epoch.saturating_sub(before.epoch),
            databases_restarted: restarted,
            alarmed_ms: None,
            written: None,
        };
        facts.check()?;
        Ok(facts)
    }

    /// Moves the store away and makes a new one, as an agent would that finds none.
    async fn replace(&self, file: &Path) -> anyhow::Result<Replaced> {
        let dir = file.parent().context("the store's file is in no directory")?.to_path_buf();
        let aside = dir.with_extension("aside");
        fs::rename(&dir, &aside).with_context(|| format!("move {} away", dir.display()))?;
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let settings =
            store::Settings::Sqlite(store::sqlite::Settings { path: file.to_path_buf() });
        let (cluster, member) = (&self.config.cluster_id, &self.config.member);
        let new = store::open(cluster, member, &settings, PATIENCE).await;
        drop(new.context("make a new store")?);
        Ok(Replaced { dir, aside })
    }
}

/// Locks the store's file against every writer until the connection is dropped.
fn lock(file: &Path) -> anyhow::Result<Connection> {
    let open = || {
        let connection = Connection::open(file)?;
        connection.busy_timeout(PATIENCE)?;
        connection.execute_batch("begin exclusive")?;
        Ok::<_, rusqlite::Error>(connection)
    };
    open().with_context(|| format!("lock {}", file.display()))
}

/// A store whose directory was moved, and another one in its place.
#[derive(Debug)]
struct Replaced {
    dir: PathBuf,
    aside: PathBuf,
}

impl Replaced {
    /// Puts the old one back, the same files.
    fn put_back(self) -> anyhow::Result<()> {
        let wrong = self.dir.with_extension("wrong");
        let moved = fs::rename(&self.dir, &wrong).and_then(|()| fs::rename(&self.aside, &self.dir));
        moved.with_context(|| format!("put {} back", self.dir.display()))?;
        fs::remove_dir_all(&wrong).with_context(|| format!("remove {}", wrong.display()))
    }
}

/// Records in the store at `file`; whoever had it open has closed it when this returns.
async fn records(file: &Path) -> anyhow::Result<u64> {
    let count = || {
        let connection = Connection::open(file)?;
        connection.busy_timeout(PATIENCE)?;
        let count = connection.query_one("select count(*) from revisions", [], |row| row.get(0))?;
        connection.close().map_err(|(_, error)| error)?;
        Ok::<i64, rusqlite::Error>(count)
    };
    let counted = count().with_context(|| format!("count what is in {}", file.display()))?;
    // The last one to close it removes its log by name: after the file was moved, that would be another's.
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let end = now() + PATIENCE;
    while Path::new(&log).exists() {
        ensure!(now() < end, "somebody uses the new store: {} stays", Path::new(&log).display());
        sleep(LOOK).await;
    }
    Ok(u64::try_from(counted).unwrap_or(0))
}
