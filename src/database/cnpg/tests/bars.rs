//! Nobody promotes a standby that has no lease.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::bar;
use super::super::part::{Data, Want};
use super::super::role::KNOCK;
use super::super::{keeper, perform, unasked};
use super::api::Say;
use super::instances::three;
use super::site::{Postmaster, Site, cluster, replica};
use super::{until, within};
use crate::core::event::Action;
use crate::database::server::outcome::Failure;

/// A running standby.
async fn running(site: &Site) -> Postmaster {
    let postmaster = site.start_postmaster();
    until("its process is seen", || site.shared.part.data() == Data::RunningStandby).await;
    postmaster
}

#[tokio::test]
async fn a_running_standby_is_barred_until_it_is_to_be_the_primary() {
    within(async {
        let site = Site::standby(replica()).await;
        site.read().await;
        assert!(!site.shared.part.is_barred(), "PostgreSQL would remove it when it starts");
        let _postmaster = running(&site).await;
        for want in [Want::Held, Want::Fenced, Want::Shut, Want::Free] {
            bar::lift(&site.file("")).unwrap();
            site.shared.part.wants(want);
            site.keep();
            assert!(site.shared.part.is_barred(), "{want:?}");
        }
        assert!(site.shared.part.open(site.shared.part.turn()));
        assert!(!site.shared.part.is_barred());
        site.keep();
        assert!(!site.shared.part.is_barred());
        bar::put(&site.file("")).unwrap();
        site.keep();
        assert!(!site.shared.part.is_barred(), "left by an agent before us");
    })
    .await;
}

#[tokio::test]
async fn a_primary_is_not_barred_from_what_it_is() {
    within(async {
        let site = Site::primary(cluster()).await;
        let _postmaster = site.start_postmaster();
        until("its process is seen", || site.shared.part.data() == Data::Running).await;
        site.shared.part.wants(Want::Free);
        site.keep();
        assert!(!site.shared.part.is_barred());
    })
    .await;
}

/// PostgreSQL removes it when it starts.
#[tokio::test]
async fn a_bar_that_is_removed_is_put_back_at_once() {
    within(async {
        let site = Site::standby(replica()).await;
        let mut postmaster = running(&site).await;
        let _watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(unasked::serve(
            Arc::clone(&site.shared),
        )));
        let began = Instant::now();
        for _ in 0..20 {
            while !site.shared.part.is_barred() {
                tokio::task::yield_now().await;
            }
            // Before anybody has looked at what was put.
            fs::remove_file(site.file(bar::PROMOTE)).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!postmaster.has_ended(), "what we put ourselves is no promotion");
        // Every half second it is looked at anyway.
        assert!(began.elapsed() < Duration::from_secs(5), "nobody told of it");
    })
    .await;
}

#[tokio::test]
async fn what_is_promoted_past_the_bar_is_killed_and_stays_down() {
    // Made there, as pg_ctl does it.
    let asks = |site: &Site| {
        let place = site.file(bar::PROMOTE);
        fs::remove_file(&place)?;
        fs::File::create(place).map(|_| ())
    };
    let ends = |site: &Site| fs::remove_file(site.file("standby.signal"));
    type Does = dyn Fn(&Site) -> std::io::Result<()>;
    let ways: [(&str, &Does); 2] = [("asked for", &asks), ("without its mark", &ends)];
    within(async {
        for (how, promote) in ways {
            for several in [false, true] {
                let site = match several {
                    true => Site::standby_instance(three(cluster(), "pg-2", "pg-2")).await,
                    false => Site::standby(replica()).await,
                };
                let mut postmaster = running(&site).await;
                site.keep();
                let _watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(
                    unasked::serve(Arc::clone(&site.shared)),
                ));
                // It watches.
                fs::remove_file(site.file(bar::PROMOTE)).unwrap();
                until("it is put", || site.shared.part.is_barred()).await;
                while promote(&site).is_err() {
                    // The bar was back before the file.
                }
                until(how, || postmaster.has_ended()).await;
                let want = if several { Want::Shut } else { Want::Fenced };
                until(how, || site.shared.part.want() == want).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_to_be_the_primary_is_promoted_in_peace() {
    within(async {
        let site = Site::standby(replica()).await;
        let mut postmaster = running(&site).await;
        site.keep();
        let _watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(unasked::serve(
            Arc::clone(&site.shared),
        )));
        // It watches.
        fs::remove_file(site.file(bar::PROMOTE)).unwrap();
        until("it is put", || site.shared.part.is_barred()).await;
        assert!(site.shared.part.open(site.shared.part.turn()));
        fs::write(site.file(bar::PROMOTE), "").unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        fs::remove_file(site.file(bar::PROMOTE)).unwrap();
        fs::remove_file(site.file("standby.signal")).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!postmaster.has_ended());
        assert!(!site.shared.part.shut());
        assert_eq!(site.shared.part.want(), Want::Open);
    })
    .await;
}

#[tokio::test]
async fn only_what_was_not_asked_for_is_stray() {
    within(async {
        for site in [
            Site::standby_instance(three(cluster(), "pg-2", "pg-2")).await,
            Site::standby(replica()).await,
        ] {
            let part = &site.shared.part;
            site.keep();
            assert!(part.is_stray(), "if it ran as a primary now");
            for is_looked_at in [false, true] {
                assert!(part.open(part.turn()));
                assert!(!part.is_stray());
                if is_looked_at {
                    site.keep();
                }
                part.wants(Want::Held);
                assert!(!part.is_stray(), "it was opened, and is to be stopped as a primary is");
                site.keep();
                assert!(part.is_stray(), "it is a standby again");
            }
        }
    })
    .await;
}

/// Its instance manager has tried in vain, and would wait ever longer.
#[tokio::test]
async fn a_promotion_that_cloudnativepg_was_told_of_already_is_asked_for_again() {
    within(async {
        let limit = Duration::from_millis(500);
        let site = Site::standby(cluster()).await;
        assert!(site.act_for(Action::Promote, limit).await.is_err(), "nobody promotes it here");
        let sent = site.api.world().sent.clone();
        assert_eq!(sent.len(), 1, "once: {sent:?}");
        assert_eq!(sent[0]["metadata"]["annotations"], json!({ KNOCK: "100" }));
        assert_eq!(sent[0]["spec"], Value::Null);

        let told = Site::standby(replica()).await;
        assert!(told.act_for(Action::Promote, limit).await.is_err(), "nobody promotes it here");
        assert_eq!(told.api.annotation(KNOCK), None, "there is something to tell");
        let next = Site::standby_instance(three(cluster(), "pg-2", "pg-2")).await;
        assert!(next.act_for(Action::Promote, limit).await.is_err(), "nobody promotes it here");
        assert_eq!(next.api.annotation(KNOCK), None, "it is appointed");
    })
    .await;
}

/// Its manager took the lease before it met the bar, and would keep it.
#[tokio::test]
async fn a_standby_that_is_not_to_act_any_more_passes_the_lease_of_managers_on() {
    within(async {
        for (made, current, target, left) in [
            (cluster(), "pg-3", "pg-2", "pg-2"),
            // It kept renewing what it had when its site became a replica, which is to lead again.
            (cluster(), "pg-2", "pg-2", "pg-2"),
            (replica(), "pg-2", "pg-2", "pg-1"),
            (replica(), "pg-3", "pg-2", "pg-2"),
            (cluster(), "pg-3", "pg-1", "pg-1"),
        ] {
            let site = Site::standby_instance(three(made, current, target)).await;
            let _postmaster = running(&site).await;
            site.keep();
            let data = site.shared.part.data();
            let mut watches = keeper::Watches::default();
            for _ in 0..2 {
                "pg-1".clone_into(&mut site.api.world().holder);
                keeper::tend(&site.shared, data, &mut watches).await.unwrap();
                assert_eq!(site.api.world().holder, left, "{current} acts, {target} is to");
            }
            // What somebody else has is not asked for again.
            let asked = || {
                let asked = site.api.world().asked.clone();
                asked.iter().filter(|it| it.contains("/leases/") && it.starts_with("get")).count()
            };
            "pg-2".clone_into(&mut site.api.world().holder);
            keeper::tend(&site.shared, data, &mut watches).await.unwrap();
            let before = asked();
            keeper::tend(&site.shared, data, &mut watches).await.unwrap();
            assert_eq!(asked(), before);
        }
        let open = Site::standby_instance(three(cluster(), "pg-3", "pg-2")).await;
        let _postmaster = running(&open).await;
        assert!(open.shared.part.open(open.shared.part.turn()));
        "pg-1".clone_into(&mut open.api.world().holder);
        let data = open.shared.part.data();
        keeper::tend(&open.shared, data, &mut keeper::Watches::default()).await.unwrap();
        assert_eq!(open.api.world().holder, "pg-1", "it may be promoted at any time");
    })
    .await;
}

/// The answer that an opening waits for may come after the fence that was to end it.
#[tokio::test]
async fn what_began_before_a_fence_opens_nothing_after_it() {
    within(async {
        for (site, action) in [
            (Site::standby(replica()).await, Action::Promote),
            (Site::standby_instance(three(cluster(), "pg-2", "pg-1")).await, Action::Promote),
            (Site::standby_instance(three(replica(), "pg-1", "pg-1")).await, Action::Promote),
            // Here it would be appointed first.
            (Site::instance(three(cluster(), "pg-2", "pg-2")).await, Action::StartPrimary),
        ] {
            site.api.world().gets = [Say::Late(Duration::from_millis(250))].into();
            let cancel = CancellationToken::new();
            let opens = perform(&site.shared, &action, &cancel);
            let fences = async {
                until("it has asked", || !site.api.world().calls.is_empty()).await;
                // As if the cancellation had not been heard.
                site.shared.part.fence(Want::Shut);
                site.keep();
            };
            let (opened, ()) = tokio::join!(opens, fences);
            assert!(matches!(opened, Err(Failure::Refused(_))), "{opened:?}");
            assert_eq!(site.shared.part.want(), Want::Shut);
            assert!(!site.is_port_free());
            assert_eq!(site.api.world().sent, Vec::<Value>::new());
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_cancelled_while_it_reads_changes_nothing() {
    within(async {
        let site = Site::standby(replica()).await;
        site.api.world().gets = [Say::Late(Duration::from_millis(250))].into();
        let limit = Duration::from_millis(50);
        assert!(site.act_for(Action::Promote, limit).await.is_err());
        assert_eq!(site.shared.part.want(), Want::Held);
        assert_eq!(site.api.world().sent, Vec::<Value>::new());
        let turn = site.shared.part.turn();
        assert!(site.shared.part.open(turn));
        site.shared.part.fence(Want::Fenced);
        assert!(!site.shared.part.open(turn), "that was before");
        assert_eq!(site.shared.part.want(), Want::Fenced);
    })
    .await;
}

/// A promotion that was cut short, and nobody is there to follow.
#[tokio::test]
async fn a_standby_that_is_left_alone_comes_up_whatever_its_cluster_wants() {
    within(async {
        let limit = Duration::from_millis(600);
        let alone = Action::Follow { upstream: None };
        let mut told = replica();
        told["spec"]["replica"]["primary"] = told["spec"]["replica"]["self"].clone();
        let site = Site::standby(told).await;
        site.shared.part.fence(Want::Fenced);
        site.read().await;
        assert!(!site.is_port_free(), "CloudNativePG would promote it");
        assert!(site.act_for(alone.clone(), limit).await.is_err(), "nobody starts it here");
        let of = |field: &str| site.api.field(&format!("/spec/replica/{field}"));
        assert_eq!(of("primary"), of("source"));
        site.read().await;
        assert!(site.is_port_free());
        assert_eq!(site.shared.part.want(), Want::Held);

        let site = Site::standby_instance(three(cluster(), "pg-1", "pg-1")).await;
        let mut object = site.api.world().cluster.clone();
        object["spec"].as_object_mut().unwrap().remove("replica");
        site.api.world().cluster = object;
        site.shared.part.fence(Want::Shut);
        site.read().await;
        assert!(!site.is_port_free());
        assert!(site.act_for(alone, limit).await.is_err(), "nobody starts it here");
        site.keep();
        assert!(site.is_port_free());
        assert!(site.shared.part.is_stray(), "and it is killed when it is promoted");
        let _postmaster = running(&site).await;
        site.keep();
        assert_eq!(site.shared.part.want(), Want::Held);
        assert!(site.shared.part.is_barred());
    })
    .await;
}

/// As `what_began_before_a_fence_opens_nothing_after_it`, where nothing is opened, and the port is given back.
#[tokio::test]
async fn who_is_left_alone_before_a_fence_does_not_come_up_after_it() {
    within(async {
        let mut made = three(cluster(), "pg-1", "pg-1");
        made["spec"].as_object_mut().unwrap().remove("replica");
        let site = Site::standby_instance(made).await;
        site.api.world().gets = [Say::Late(Duration::from_millis(250))].into();
        let cancel = CancellationToken::new();
        let follows = perform(&site.shared, &Action::Follow { upstream: None }, &cancel);
        let fences = async {
            until("it has asked", || !site.api.world().calls.is_empty()).await;
            // As if the cancellation had not been heard.
            site.shared.part.fence(Want::Shut);
            site.keep();
            tokio::time::sleep(Duration::from_millis(350)).await;
            site.keep();
            assert_eq!(site.shared.part.want(), Want::Shut);
            assert!(!site.is_port_free());
            cancel.cancel();
        };
        let (followed, ()) = tokio::join!(follows, fences);
        assert!(followed.is_err(), "nobody starts it here");
    })
    .await;
}

#[tokio::test]
async fn what_was_left_alone_and_became_a_primary_is_held() {
    within(async {
        let site = Site::standby_instance(three(cluster(), "pg-1", "pg-1")).await;
        site.read().await;
        site.shared.part.stand_by(site.shared.part.turn());
        site.keep();
        assert!(site.is_port_free());
        fs::remove_file(site.file("standby.signal")).unwrap();
        site.keep();
        assert!(!site.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn a_primary_that_became_a_standby_is_free_no_more() {
    within(async {
        let site = Site::standby(replica()).await;
        site.read().await;
        site.shared.part.wants(Want::Free);
        site.keep();
        assert_eq!(site.shared.part.want(), Want::Held);
        assert!(site.shared.part.open(site.shared.part.turn()));
        let limit = Duration::from_millis(300);
        let followed = site.act_for(Action::Follow { upstream: None }, limit).await;
        assert!(followed.is_err(), "nobody starts it here");
        assert_eq!(site.shared.part.want(), Want::Held);
    })
    .await;
}
