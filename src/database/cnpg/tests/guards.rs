//! What only matters when something else goes wrong at the same time.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::cluster::Cluster;
use super::super::mark::{FENCED, MARK};
use super::super::part::{Data, Want};
use super::super::role::{self, Demotion};
use super::super::{fence, keeper};
use super::api::Say;
use super::site::{END, SYSTEM, Site, cluster, ladder, replica, upstream, us};
use super::{until, within};
use crate::core::event::{Action, Done};
use crate::database::cnpg::token::tests::written;
use crate::database::server::outcome::{Failure, Step};
use crate::postmaster::port::Listening;

const SHORT: Duration = Duration::from_millis(700);

const UNRECOVERABLE: &str = "Cluster is unrecoverable and needs manual intervention";

#[tokio::test]
async fn what_is_wanted_open_stays_so_and_a_primary_s_data_stay_fenced() {
    within(async {
        let site = Site::standby(replica()).await;
        site.shared.part.wants(Want::Open);
        site.read().await;
        assert_eq!(site.shared.part.want(), Want::Open, "somebody is promoting it");
        let site = Site::primary(replica()).await;
        site.shared.part.wants(Want::Fenced);
        site.read().await;
        assert_eq!(site.shared.part.want(), Want::Fenced, "a demotion is asked for, and not done");
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_taken_for_a_primary_s() {
    within(async {
        let site = Site::primary(replica()).await;
        std::fs::write(site.file("PG_VERSION"), "rubbish\n").unwrap();
        assert_eq!(site.shared.part.data(), Data::Primary);
        site.read().await;
        assert!(site.shared.part.holds());
    })
    .await;
}

#[tokio::test]
async fn a_port_that_the_watchdog_holds_is_proof_enough() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.give_back();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, site.port));
        let mut watchdog = None;
        until("the port is held by another user", || {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(false).unwrap();
            let is_bound = socket.bind(address).is_ok();
            watchdog = Some(socket);
            is_bound
        })
        .await;
        site.api.world().always = vec![("patch", Say::code(500, "failed calling webhook"))];
        assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))));
        assert!(!site.shared.part.holds());
    })
    .await;
}

/// One goes, or lets go, and the other one has it.
#[tokio::test]
async fn the_port_is_held_beside_our_watchdog_that_holds_it() {
    within(async {
        let site = Site::primary(cluster()).await;
        let watchdog = Listening::everywhere(site.port).hold().unwrap();
        site.shared.part.give_back();
        assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))));
        assert!(site.shared.part.holds());
        drop(watchdog);
        assert!(!site.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn a_try_of_the_keeper_does_what_is_wanted_then() {
    within(async {
        let mut ours = cluster();
        ours["metadata"]["annotations"] =
            json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-a\"}" });
        let site = Site::primary(ours).await;
        site.shared.part.wants(Want::Open);
        site.api.world().patches = (0..6).map(|_| Say::code(503, "unavailable")).collect();
        let keeper = tokio::spawn(keeper::serve(Arc::clone(&site.shared)));
        until("it tries", || !site.api.world().sent.is_empty()).await;
        site.shared.part.wants(Want::Fenced);
        let before = site.api.world().sent.len();
        assert!(site.api.world().patches.len() > 3, "too late");
        // Tries go on for as long as the faults last, and then nothing is to be changed any more.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(site.api.annotation(FENCED).as_deref(), Some("[\"*\"]"));
        let sent = site.api.world().sent.split_off(before);
        let lifts = |patch: &&Value| patch["metadata"]["annotations"][FENCED].is_null();
        // One was on its way.
        assert!(sent.iter().filter(lifts).count() <= 1, "{sent:?}");
        keeper.abort();
    })
    .await;
}

/// Promotes a standby whose Cluster was as `before` says and is changed by `then` as soon as it is asked.
async fn promoted(before: Value, then: fn(&mut Value), limit: Duration) -> (Site, Step<Done>) {
    let site = Site::standby(before).await;
    let api = site.api.clone();
    let changes = tokio::spawn(async move {
        until("the promotion", || api.field("/spec/replica/primary") == "pg-a").await;
        api.change(then);
    });
    let ended = site.act_for(Action::Promote, limit).await;
    changes.await.unwrap();
    (site, ended)
}

fn given_up(cluster: &mut Value) {
    cluster["status"]["phase"] = json!(UNRECOVERABLE);
    cluster["status"]["phaseReason"] = json!("Promotion token content is not correct");
}

#[tokio::test]
async fn a_promotion_that_cloudnativepg_gives_up_is_taken_back() {
    within(async {
        let (site, ended) = promoted(replica(), given_up, Duration::from_secs(8)).await;
        let why = ended.unwrap_err();
        assert!(matches!(&why, Failure::Refused(text) if text.contains("refuses the promotion")));
        assert_eq!(site.api.field("/spec/replica/primary"), "pg-b", "it could happen later");
        assert_eq!(site.shared.part.want(), Want::Held);
    })
    .await;
}

#[tokio::test]
async fn what_was_given_up_before_says_nothing_of_a_promotion_that_has_just_begun() {
    within(async {
        let mut before = replica();
        given_up(&mut before);
        let (site, ended) = promoted(before, |_| (), Duration::from_secs(3)).await;
        assert!(matches!(ended, Err(Failure::Cancelled)), "{ended:?}");
        assert_eq!(site.api.field("/spec/replica/primary"), "pg-a");
    })
    .await;
}

#[tokio::test]
async fn a_promotion_ends_when_somebody_fences_what_is_promoted() {
    within(async {
        let fenced = |cluster: &mut Value| {
            cluster["metadata"]["annotations"][FENCED] = json!("[\"*\"]");
        };
        let (_, ended) = promoted(replica(), fenced, Duration::from_secs(8)).await;
        let why = ended.unwrap_err();
        assert!(
            matches!(&why, Failure::Refused(text) if text.contains("somebody else has fenced"))
        );
    })
    .await;
}

#[tokio::test]
async fn a_primary_s_data_follow_nobody_without_a_rejoin_and_a_rejoin_leaves_them_fenced() {
    within(async {
        let site = Site::new(cluster(), "in production", false).await;
        let why = site.act(Action::Follow { upstream: Some(upstream()) }).await.unwrap_err();
        assert!(why.text().contains("rejoin, do not follow"), "{why:?}");
        assert_eq!(site.api.field("/spec/replica/primary"), "pg-a");
        site.act(Action::Rejoin { upstream: upstream() }).await.unwrap_err();
        assert_eq!(site.shared.part.want(), Want::Fenced, "it must not come up as what it was");
    })
    .await;
}

#[tokio::test]
async fn a_demotion_fences_and_holds_the_port_before_it_asks_for_another_role() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.give_back();
        let _ended = site.act_for(Action::Demote { to: upstream() }, SHORT).await;
        assert!(site.shared.part.holds());
        let sent = site.api.world().sent.clone();
        let first = sent.first().unwrap();
        assert_eq!(first["metadata"]["annotations"][FENCED], r#"["*"]"#, "{sent:?}");
        assert_eq!(first["spec"], Value::Null, "{sent:?}");
        let asks = |patch: &&Value| patch["spec"]["replica"]["primary"] == "pg-b";
        assert_eq!(sent.iter().filter(asks).count(), 1, "{sent:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_opened_finds_its_port_as_soon_as_it_is_asked_for() {
    within(async {
        let site = Site::primary(cluster()).await;
        let _ended = site.act_for(Action::StartPrimary, SHORT).await;
        // Nobody has looked after the port since.
        site.until_port_is_free().await;
    })
    .await;
}

#[tokio::test]
async fn a_standby_that_somebody_has_fenced_follows_nobody_unless_it_is_being_demoted() {
    within(async {
        let mut fenced = replica();
        fenced["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#);
        let follow = || Action::Follow { upstream: Some(upstream()) };
        let site = Site::standby(fenced.clone()).await;
        let why = site.act_for(follow(), Duration::from_secs(8)).await.unwrap_err();
        assert!(
            matches!(&why, Failure::Refused(text) if text.contains("somebody else has fenced"))
        );
        // The operator's own: it lifts it in the end.
        fenced["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
        let site = Site::standby(fenced).await;
        let why = site.act_for(follow(), Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(why, Failure::Cancelled), "{why:?}");
    })
    .await;
}

#[tokio::test]
async fn only_what_was_read_since_says_that_a_fence_is_in_place() {
    within(async {
        let mut fenced = cluster();
        fenced["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#);
        let site = Site::primary(fenced).await;
        site.read().await;
        let began = Instant::now();
        assert!(!fence::is_in_place(&site.shared, began), "it may be lifted since");
        site.read().await;
        assert!(fence::is_in_place(&site.shared, began));
    })
    .await;
}

#[tokio::test]
async fn a_fence_that_nobody_wants_any_more_is_not_asked_for() {
    within(async {
        let site = Site::primary(cluster()).await;
        for want in [Want::Open, Want::Free, Want::Held] {
            site.shared.part.wants(want);
            fence::request(&site.shared).await.unwrap();
            assert!(site.api.world().sent.is_empty(), "{want:?}");
        }
    })
    .await;
}

fn read(value: Value) -> Cluster {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_demotion_is_fenced_in_the_same_breath() {
    let (us, to) = (us(), "pg-b");
    let patch = role::demotion(&read(cluster()), &us, to).unwrap().unwrap();
    assert_eq!(patch["metadata"]["annotations"][FENCED], r#"["*"]"#, "{patch}");
    assert_eq!(patch["spec"]["replica"]["primary"], "pg-b");
}

#[test]
fn nobody_is_pointed_elsewhere_while_it_becomes_a_replica_or_with_a_token_left_behind() {
    let (us, to) = (us(), "pg-b");
    let mut switching = replica();
    switching["spec"]["replica"]["source"] = json!("pg-a");
    assert!(role::repointing(&read(switching.clone()), &us, to).unwrap().is_some());
    switching["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
    let why = role::repointing(&read(switching), &us, to).unwrap_err();
    assert!(why.text().contains("still making it a replica"), "{why:?}");
    let mut left = replica();
    assert_eq!(role::repointing(&read(left.clone()), &us, to).unwrap(), None);
    left["spec"]["replica"]["promotionToken"] = json!("b2xk");
    let patch = role::repointing(&read(left), &us, to).unwrap().unwrap();
    assert_eq!(patch["spec"]["replica"]["promotionToken"], Value::Null);
}

#[tokio::test]
async fn a_demotion_is_done_when_everything_says_so() {
    let site = Site::primary(cluster()).await;
    let server = &site.shared.server;
    let end = server.control.read(&server.place, &CancellationToken::new()).await.unwrap();
    let to = upstream().member;
    let mut done = replica();
    done["status"]["demotionToken"] = json!(written(SYSTEM, "2", END));
    let of = |cluster: &Value, standby| {
        role::demoted(&read(cluster.clone()), to.as_str(), standby, &end)
    };
    assert!(matches!(of(&done, true), Ok(Demotion::Proven(_))));
    assert!(matches!(of(&done, false), Ok(Demotion::Underway(_))), "its data are a primary's");
    let mut switching = done.clone();
    switching["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
    assert!(matches!(of(&switching, true), Ok(Demotion::Underway(_))));
    for (field, name) in [("primary", "pg-a"), ("source", "pg-a")] {
        let mut reverted = done.clone();
        reverted["spec"]["replica"][field] = json!(name);
        let why = of(&reverted, true).unwrap_err();
        assert!(matches!(&why, Failure::Unknown(text) if text.contains("somebody changed")));
    }
    done["status"]["demotionToken"] = Value::Null;
    assert!(matches!(of(&done, true), Ok(Demotion::Unproven)));
}

/// Its manager restarted what was killed before the port was ours.
#[tokio::test]
async fn what_came_up_while_the_port_was_not_held_is_killed() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.give_back();
        let somebody = TcpListener::bind(("0.0.0.0", site.port)).unwrap();
        site.api.world().always = vec![("patch", Say::code(500, "failed calling webhook"))];
        let fencing = site.act(ladder());
        let brings_up = async {
            // The ladder is over when the annotation and the port are all that is missing.
            until("it was asked for", || !site.api.world().sent.is_empty()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut postmaster = site.start_postmaster();
            until("what came up is killed", || postmaster.has_ended()).await;
            drop(somebody);
        };
        let (fenced, ()) = tokio::join!(fencing, brings_up);
        assert!(matches!(fenced, Ok(Done::Fenced(_))), "{fenced:?}");
    })
    .await;
}
