//! What would come up is held back until it may.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::super::gate::held_back;
use super::super::mark::FENCED;
use super::super::observe::observe;
use super::super::part::{Comes, Data, Want, comes_up, is_to_be_held};
use super::api::Say;
use super::site::{Site, cluster, replica, us};
use super::{until, within};
use crate::core::event::{Action, Condition, Process};

#[tokio::test]
async fn a_primary_s_data_is_held_back_until_the_lease_allows_it() {
    within(async {
        let site = Site::primary(cluster()).await;
        assert!(!site.is_port_free(), "from the start on");
        site.read().await;
        assert!(held_back(&site.shared).unwrap().contains("come up as a primary"));
        let limit = Duration::from_millis(400);
        assert!(site.act_for(Action::StartPrimary, limit).await.is_err(), "nobody starts it here");
        assert_eq!(held_back(&site.shared), None);
        site.keep();
        site.until_port_is_free().await;
    })
    .await;
}

#[tokio::test]
async fn a_fence_in_place_opens_the_gate_and_keeps_the_port() {
    within(async {
        let mut fenced = cluster();
        fenced["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#);
        let site = Site::primary(fenced).await;
        assert!(held_back(&site.shared).is_some(), "nobody has read it");
        site.read().await;
        assert_eq!(held_back(&site.shared), None);
        assert!(!site.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn what_a_standby_s_data_comes_up_as_is_in_the_cluster() {
    within(async {
        let site = Site::standby(replica()).await;
        assert!(held_back(&site.shared).unwrap().contains("API server"), "not known without it");
        assert!(!site.is_port_free());
        site.read().await;
        assert_eq!(held_back(&site.shared), None);
        site.until_port_is_free().await;

        let promoted = Site::standby(cluster()).await;
        promoted.read().await;
        assert!(held_back(&promoted.shared).unwrap().contains("come up as a primary"));
        assert!(!promoted.is_port_free());
    })
    .await;
}

#[tokio::test]
async fn what_was_read_long_ago_opens_nothing() {
    within(async {
        let mut fenced = cluster();
        fenced["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#);
        let site = Site::primary(fenced).await;
        site.read().await;
        assert_eq!(held_back(&site.shared), None);
        let mut read = site.shared.last_read().unwrap();
        read.at = Instant::now() - Duration::from_secs(11);
        *site.shared.read.lock().unwrap() = Some(read);
        assert!(held_back(&site.shared).is_some());
    })
    .await;
}

#[test]
fn only_what_may_write_is_held() {
    let known = |value| serde_json::from_value(value).unwrap();
    let (primary, standby) = (known(cluster()), known(replica()));
    let table = [
        (Data::None, None, Comes::Nothing),
        (Data::Running, Some(&primary), Comes::Nothing),
        (Data::RunningStandby, None, Comes::Nothing),
        (Data::Primary, None, Comes::Primary),
        (Data::Primary, Some(&standby), Comes::Primary),
        (Data::Standby, None, Comes::Unknown),
        (Data::Standby, Some(&standby), Comes::Standby),
        (Data::Standby, Some(&primary), Comes::Primary),
    ];
    for (data, cluster, comes) in table {
        assert_eq!(comes_up(data, cluster, &us()), comes, "{data:?}");
        let dangerous = matches!(comes, Comes::Primary | Comes::Unknown);
        for want in [Want::Held, Want::Fenced] {
            assert_eq!(is_to_be_held(want, comes), dangerous, "{want:?} {data:?}");
        }
        for want in [Want::Open, Want::Free] {
            assert!(!is_to_be_held(want, comes), "{want:?} {data:?}");
        }
    }
}

#[tokio::test]
async fn the_api_server_s_silence_is_nothing_against_the_database() {
    within(async {
        let site = Site::standby(replica()).await;
        site.api.world().always = vec![("get", Say::Nothing), ("patch", Say::Nothing)];
        let began = Instant::now();
        let seen = observe(&site.shared, Duration::from_secs(5)).await;
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!((seen.process, seen.condition), (Process::StoppedStandby, Condition::Stopped));
        assert_eq!(site.api.world().calls.len(), 0, "a look asks nobody");
    })
    .await;
}

#[tokio::test]
async fn what_recovers_without_the_mark_of_a_standby_is_a_primary() {
    within(async {
        let site = Site::new(cluster(), "in archive recovery", false).await;
        let seen = observe(&site.shared, Duration::from_secs(5)).await;
        assert_eq!(seen.process, Process::StoppedPrimary);
        assert_eq!(seen.timeline.0, 2);
    })
    .await;
}

#[tokio::test]
async fn a_primary_stopped_in_order_may_be_coming_up_again_and_a_held_or_crashed_one_is_down() {
    within(async {
        let look = Duration::from_secs(5);
        let site = Site::primary(cluster()).await;
        assert_eq!(observe(&site.shared, look).await.process, Process::StoppedPrimary, "held");
        site.shared.part.wants(Want::Free);
        let seen = observe(&site.shared, look).await;
        assert_eq!((seen.process, seen.condition), (Process::Running, Condition::Starting));
        site.shared.restarts(Some(Instant::now() - Duration::from_secs(31)));
        assert_eq!(observe(&site.shared, look).await.process, Process::StoppedPrimary, "no more");

        let crashed = Site::new(cluster(), "in production", false).await;
        crashed.shared.part.wants(Want::Free);
        assert_eq!(observe(&crashed.shared, look).await.process, Process::StoppedPrimary);

        let mut fenced = cluster();
        fenced["metadata"]["annotations"][FENCED] = json!(r#"["*"]"#);
        let fenced = Site::primary(fenced).await;
        let mut asleep = cluster();
        asleep["metadata"]["annotations"]["cnpg.io/hibernation"] = json!("on");
        for site in [fenced, Site::primary(asleep).await] {
            site.read().await;
            site.shared.part.wants(Want::Open);
            assert_eq!(observe(&site.shared, look).await.process, Process::StoppedPrimary);
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_has_only_just_been_started_is_no_remnant_of_one_that_died() {
    within(async {
        let look = Duration::from_secs(5);
        for (state, expected) in
            [("shut down", Process::Running), ("in production", Process::Remnants)]
        {
            let site = Site::new(cluster(), state, false).await;
            site.shared.part.wants(Want::Open);
            let _postmaster = site.start_postmaster();
            until("its process is seen", || site.shared.part.data() == Data::Running).await;
            assert_eq!(observe(&site.shared, look).await.process, expected, "{state}");
        }
    })
    .await;
}
