//! A site hands over to the other one and gets it back: demoted before anybody is promoted, with a token
//! that is used once.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use tokio::time::Instant;

use super::super::double::cluster::Cluster;
use super::site::{Site, Two};
use crate::live::checks::count;
use crate::live::cluster::{Member, PATIENCE, until};
use crate::live::orders::done;

/// How a token begins that the double gives out: base64 of `{"databaseSystemId`.
const TOKEN: &str = "eyJkYXRhYmFzZVN5c3RlbUlk";

/// The agent's program, asked for a switchover beside `site`; it goes on by itself.
pub(super) fn begin(site: &Site, to: &str) -> Child {
    begin_beside(&site.member, to)
}

/// The same beside a member.
pub(in crate::cnpg) fn begin_beside(member: &Member, to: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harmony-agent"));
    command.args(["switchover", "--to", to, "--yes", "--config"]).arg(member.write_settings());
    command.env("USER", "somebody").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(member.dir.join("order.log")).unwrap());
    command.spawn().unwrap()
}

/// What was seen of a hand-over while it went on.
#[derive(Debug, Default)]
struct Seen {
    /// The old primary's Cluster names the new one.
    demoted: bool,
    /// The token is in the store.
    stored: bool,
    /// The token that the new primary's Cluster was given.
    given: Option<String>,
    /// CloudNativePG says that it is used.
    used: bool,
    /// It was taken out of the Cluster.
    cleared: bool,
}

impl Seen {
    /// Looks at the later parts first, so that nothing is missed that came before them.
    fn look(&mut self, old: &Site, new: &Site, store: &Connection) {
        let (object, demoted) = (new.cluster(), old.cluster());
        let (there, old) = (Cluster(&object), Cluster(&demoted));
        let token = Some(there.token()).filter(|token| !token.is_empty());
        let newest = "SELECT value FROM revisions WHERE key = 'lease' ORDER BY revision DESC";
        let lease = store.query_row(newest, [], |row| row.get::<_, Vec<u8>>(0)).unwrap_or_default();
        let (was, text) = (self.used, String::from_utf8_lossy(&lease).into_owned());
        self.used |= token.is_some_and(|token| there.text("/status/lastPromotionToken") == token);
        self.demoted |= old.text("/spec/replica/primary") == new.name;
        let proof = old.text("/status/demotionToken");
        self.stored |= !proof.is_empty() && text.contains(proof);
        let promoted = there.text("/spec/replica/primary") == new.name;
        assert!(!promoted || self.demoted, "promoted before the other one was demoted\n{object:#}");
        match (&self.given, token) {
            (None, Some(token)) => {
                assert!(self.stored, "the token was used before it was in the store: {text}");
                assert_eq!(token, proof, "the token is another one\n{demoted:#}");
                self.given = Some(token.to_owned());
            }
            (Some(given), Some(token)) => assert_eq!(token, given, "a second token"),
            (Some(_), None) => {
                assert!(was, "the token was taken away before it was used\n{object:#}");
                self.cleared = true;
            }
            (None, None) => {}
        }
    }
}

/// Waits until `old` follows `new`, as it does when both have come to rest.
pub(super) fn until_served(old: &Site, new: &Site) {
    // CloudNativePG restarts what it promoted; whoever follows is without it for a moment.
    until("it was restarted", || {
        let mode = new.member.sql("show archive_mode")?;
        let told = || [new.double.told(), new.pod.postgres.log(), new.member.log()].join("\n");
        let said = || format!("{mode}\n{:#}\n{}", new.cluster(), told());
        (mode == "on").then_some(()).ok_or_else(said)
    });
    new.member.until_leads();
    old.member.until_follows();
    new.member.until("its sender serves the other one", |status| {
        let standbys = status["database"]["standbys"].as_array().cloned().unwrap_or_default();
        standbys.iter().any(|standby| standby[0] == old.name)
    });
    new.member.until_has_candidate();
}

/// Hands over from `old` to `new` and watches every step.
fn hand_over(old: &Site, new: &Site, store: &Connection) {
    let mut order = begin(old, new.name);
    let mut seen = Seen::default();
    let end = Instant::now() + PATIENCE;
    while !seen.cleared {
        seen.look(old, new, store);
        assert!(
            Instant::now() < end,
            "{seen:?}\n{:#}\n{:#}\n{}\n{}\n{}",
            old.cluster(),
            new.cluster(),
            fs::read_to_string(old.member.dir.join("order.log")).unwrap_or_default(),
            old.member.log(),
            new.member.log()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let said = order.wait().unwrap();
    let log = fs::read_to_string(old.member.dir.join("order.log")).unwrap();
    assert!(said.success(), "{log}");
    until_served(old, new);
    for site in [old, new] {
        assert_eq!(site.fence(), None, "{:#}", site.cluster());
    }
}

#[test]
fn a_switchover_and_back_demote_first_and_lose_nothing() {
    let mut two = Two::start();
    // What a new copy would not have.
    for site in [&two.a, &two.b] {
        fs::write(site.member.data_dir().join(format!("mark-of-{}", site.name)), "").unwrap();
    }
    let store = Connection::open(two.place.store()).unwrap();
    store.busy_timeout(Duration::from_secs(10)).unwrap();
    let clients = two.clients();
    clients.until_acknowledges(0);
    hand_over(&two.a, &two.b, &store);
    clients.until_acknowledges(1);
    hand_over(&two.b, &two.a, &store);
    clients.until_acknowledges(0);
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&two.a.member) as usize >= acknowledged, "{acknowledged} were acknowledged");
    for site in [&two.a, &two.b] {
        let mark = site.member.data_dir().join(format!("mark-of-{}", site.name));
        assert!(mark.exists(), "{} was copied anew", site.name);
        assert!(!site.member.log().contains(TOKEN), "a token was logged");
    }
    let history = done(&two.a.member, &["history", "--json"]);
    let history: Value = serde_json::from_str(&history).unwrap();
    for number in [0, 1] {
        let report = &history["reports"][number];
        assert_eq!(report["asked"]["wish"], "switchover", "{report}");
        assert_eq!(report["evidence"]["fence"]["rung"], "fast", "{report}");
    }
    two.assert_sound();
}

/// Whoever manages the instance may read of the fence long after it is in the Cluster. It finds PostgreSQL
/// ended and brings it up again, as the primary it was.
#[test]
fn an_instance_manager_that_reads_of_the_fence_late_brings_up_no_second_primary() {
    let mut two = Two::start();
    let clients = two.clients();
    clients.until_acknowledges(0);
    two.a.pod.link.set_lag(Duration::from_millis(1500));
    let restarts = two.a.pod.state().restarts;
    let mut order = begin(&two.a, "pg-b");
    two.a.member.until_says("\"action\":\"demote\"");
    // What was on its way to the client.
    std::thread::sleep(Duration::from_millis(200));
    let acknowledged = clients.count(0);
    assert!(order.wait().unwrap().success(), "{}", two.a.member.log());
    clients.until_acknowledges(1);
    assert!(two.a.pod.state().restarts > restarts, "it has not tried: {:?}", two.a.pod.state());
    assert_eq!(clients.count(0), acknowledged, "it came up again\n{}", two.a.member.log());
    two.a.pod.link.set_lag(Duration::ZERO);
    two.a.member.until_follows();
    let acknowledged = clients.count(0) + clients.count(1);
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(count(&two.b.member) as usize >= acknowledged, "{acknowledged} were acknowledged");
    two.assert_sound();
}

/// CloudNativePG leaves PostgreSQL down when its first start after a fence fails.
#[test]
fn a_standby_whose_first_start_failed_is_started_again() {
    let mut two = Two::start();
    two.a.pod.knobs().unfences_in_vain = 1;
    done(&two.a.member, &["switchover", "--to", "pg-b", "--yes"]);
    two.b.member.until_leads();
    assert_eq!(two.a.pod.knobs().unfences_in_vain, 0);
    two.a.member.until_follows();
    assert!(two.a.member.log().contains("having it started again"), "{}", two.a.member.log());
    two.b.member.until_has_candidate();
    assert_eq!(two.a.fence(), None, "{:#}", two.a.cluster());
    two.assert_sound();
}
