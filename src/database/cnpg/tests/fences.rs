//! The fence: the annotation, the port, whose it is, and when it goes.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use super::super::keeper::due;
use super::super::mark::{FENCED, Fence, MARK};
use super::super::part::{Data, Want};
use super::super::us::Us;
use super::super::{cluster::Cluster, fence};
use super::api::Say;
use super::site::{Site, cluster, ladder, replica, us};
use super::{until, within};
use crate::core::event::{Action, Done};
use crate::database::server::outcome::Failure;

const SHORT: Duration = Duration::from_millis(700);

fn read(value: &serde_json::Value) -> Cluster {
    serde_json::from_value(value.clone()).unwrap()
}

fn fenced_with(list: &str) -> serde_json::Value {
    let mut cluster = cluster();
    cluster["metadata"]["annotations"][FENCED] = json!(list);
    cluster
}

#[tokio::test]
async fn a_fence_sets_the_annotation_marks_it_and_holds_the_port() {
    within(async {
        let site = Site::primary(cluster()).await;
        let done = site.act(ladder()).await.unwrap();
        let Done::Fenced(proof) = done else { panic!("{done:?}") };
        assert!(proof.clean && proof.rung == "down", "{proof:?}");
        assert!(site.shared.part.holds() && !site.is_port_free());
        until("the annotation", || site.api.annotation(FENCED).is_some()).await;
        assert_eq!(site.api.annotation(FENCED).unwrap(), r#"["*"]"#);
        assert_eq!(site.api.annotation(MARK).unwrap(), r#"{"member":"pg-a"}"#);
    })
    .await;
}

#[tokio::test]
async fn the_fence_is_proven_without_the_api_server() {
    within(async {
        for say in [
            Say::Nothing,
            Say::code(500, "Internal error occurred: failed calling webhook \"vcluster.cnpg.io\""),
            Say::code(403, "forbidden"),
            Say::code(404, "not found"),
        ] {
            let site = Site::primary(cluster()).await;
            site.api.world().always = vec![("get", say.clone()), ("patch", say.clone())];
            let began = tokio::time::Instant::now();
            assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))), "{say:?}");
            assert!(began.elapsed() < Duration::from_secs(3), "{say:?}");
            assert!(!site.is_port_free(), "{say:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn with_neither_port_nor_annotation_there_is_no_proof() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.shared.part.give_back();
        let _somebody = TcpListener::bind(("0.0.0.0", site.port)).unwrap();
        site.api.world().always = vec![("patch", Say::code(500, "failed calling webhook"))];
        let failure = site.act_for(ladder(), SHORT).await.unwrap_err();
        assert!(matches!(&failure, Failure::Unknown(why) if why.contains("cannot be held")));
        // The annotation alone will do.
        site.api.world().always.clear();
        assert!(matches!(site.act(ladder()).await, Ok(Done::Fenced(_))));
        assert_eq!(site.api.annotation(FENCED).unwrap(), r#"["*"]"#);
    })
    .await;
}

#[tokio::test]
async fn conflicts_and_silence_are_overcome_and_others_annotations_stay() {
    within(async {
        let mut before = cluster();
        before["metadata"]["annotations"]["theirs"] = json!("1");
        let site = Site::primary(before).await;
        site.shared.part.wants(Want::Fenced);
        site.api.world().patches = [
            Say::code(409, "modified"),
            Say::code(503, "unavailable"),
            Say::Code(429, "too many".to_owned(), "1"),
            Say::code(410, "gone"),
            Say::MadeAndNothing,
        ]
        .into();
        let began = tokio::time::Instant::now();
        fence::request(&site.shared).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not kept");
        assert_eq!(site.api.annotation(FENCED).unwrap(), r#"["*"]"#);
        assert_eq!(site.api.annotation("theirs").unwrap(), "1");
        let patches = site.api.world().calls.iter().filter(|(verb, _)| verb == "patch").count();
        assert_eq!(patches, 5, "what was made in silence is recognised, not made again");
    })
    .await;
}

#[tokio::test]
async fn a_fence_of_a_person_is_in_force_and_never_lifted() {
    within(async {
        for list in [r#"["pg-1"]"#, r#"["*"]"#] {
            let site = Site::primary(fenced_with(list)).await;
            site.act(ladder()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(site.api.annotation(FENCED).unwrap(), list);
            assert_eq!(site.api.annotation(MARK), None);
            let why = site.act(Action::StartPrimary).await.unwrap_err();
            assert!(why.text().contains("somebody else has fenced"), "{why:?}");
            assert_eq!(site.api.annotation(FENCED).unwrap(), list);
            assert!(site.shared.part.holds(), "nothing was opened");
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_was_fenced_before_us_stays_fenced_after_us() {
    within(async {
        let site = Site::primary(fenced_with(r#"["pg-7"]"#)).await;
        site.act(ladder()).await.unwrap();
        until("the fence", || site.api.annotation(FENCED).unwrap() == r#"["*"]"#).await;
        assert!(site.act_for(Action::StartPrimary, SHORT).await.is_err(), "nobody starts it here");
        assert_eq!(site.api.annotation(FENCED).unwrap(), r#"["pg-7"]"#);
        assert_eq!(site.api.annotation(MARK), None);
    })
    .await;
}

#[test]
fn whoever_is_named_beside_our_fence_stays_fenced_after_us() {
    let us = us();
    let of = |list: &str, mark: &str| {
        let mut fenced = fenced_with(list);
        fenced["metadata"]["annotations"][MARK] = json!(mark);
        Fence::of(&read(&fenced), &us)
    };
    let ours = "{\"member\":\"pg-a\"}";
    let (added, all) = (of(r#"["*","pg-7"]"#, ours), of(r#"["*"]"#, ours));
    assert_eq!(added.lift().unwrap()[FENCED], r#"["pg-7"]"#);
    assert!(added.is_shared() && !added.is_foreign, "ours can be lifted, pg-7 does not run here");
    assert_eq!(all.lift().unwrap()[FENCED], json!(null));
    assert!(!all.is_shared() && !all.is_foreign);
    // Named by a person in the place of ours.
    for list in [r#"["pg-1"]"#, r#"["*","pg-1"]"#] {
        let theirs = of(list, ours);
        assert!(theirs.is_foreign && theirs.is_shared(), "{list}");
        assert_eq!(theirs.lift().unwrap()[FENCED], r#"["pg-1"]"#);
    }
    let noted = of(r#"["*","pg-7"]"#, "{\"member\":\"pg-a\",\"before\":[\"pg-7\",\"pg-8\"]}");
    assert_eq!(noted.lift().unwrap()[FENCED], r#"["pg-7","pg-8"]"#);
}

#[test]
fn what_is_no_list_is_no_fence_and_is_written_over() {
    let us = &us();
    for text in ["pg-1", "*", "[", "{\"a\":1}", "[1]", "\"*\"", "null"] {
        let fence = Fence::of(&read(&fenced_with(text)), us);
        assert!(!fence.covers && fence.unreadable, "{text}");
        assert_eq!(fence.set(us).unwrap()[FENCED], r#"["*"]"#, "{text}");
    }
    for text in ["[]", r#"["pg-2"]"#] {
        let fence = Fence::of(&read(&fenced_with(text)), us);
        assert!(!fence.covers && !fence.unreadable, "{text}");
    }
}

#[test]
fn a_fence_that_somebody_lifted_is_put_back_until_it_is_a_standby() {
    let us = &us();
    let of = |want, data, cluster: &serde_json::Value| due(want, data, &read(cluster), us);
    let put_back = of(Want::Fenced, Data::Primary, &cluster()).unwrap();
    assert_eq!(put_back["metadata"]["annotations"][FENCED], r#"["*"]"#);
    assert!(of(Want::Fenced, Data::Running, &cluster()).is_some(), "also when it runs again");
    // A demotion lifted it, but it is a primary's data all the same.
    assert!(of(Want::Fenced, Data::Primary, &replica()).is_some());
    // A standby's data that is to be promoted comes up writable.
    assert!(of(Want::Fenced, Data::Standby, &cluster()).is_some());
    assert_eq!(of(Want::Fenced, Data::Standby, &replica()), None);
    for want in [Want::Held, Want::Free, Want::Open] {
        assert_eq!(of(want, Data::Primary, &cluster()), None, "{want:?}");
    }
}

#[test]
fn our_fence_goes_from_what_can_be_nothing_but_a_standby_and_theirs_does_not() {
    let us = &us();
    let mut ours = replica();
    ours["metadata"]["annotations"] = json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-a\"}" });
    for want in [Want::Held, Want::Fenced, Want::Free] {
        let lifted = due(want, Data::Standby, &read(&ours), us).unwrap();
        assert_eq!(lifted["metadata"]["annotations"], json!({ FENCED: null, MARK: null }));
    }
    let mut switching = ours.clone();
    switching["status"]["switchReplicaClusterStatus"] = json!({ "inProgress": true });
    assert_eq!(due(Want::Fenced, Data::Standby, &read(&switching), us), None);
    for mark in [json!(null), json!("{\"member\":\"pg-b\"}"), json!("what?")] {
        let mut theirs = ours.clone();
        theirs["metadata"]["annotations"][MARK] = mark.clone();
        let text = serde_json::to_string(&theirs)
            .unwrap()
            .replace(&format!("\"{MARK}\":null"), "\"x\":\"\"");
        let theirs: Cluster = serde_json::from_str(&text).unwrap();
        assert_eq!(due(Want::Held, Data::Standby, &theirs, us), None, "{mark}");
    }
}

/// A Cluster of three whose `*` the agent of pg-1 has set.
fn of_another(mut cluster: serde_json::Value) -> serde_json::Value {
    cluster["metadata"]["annotations"] =
        json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-1\"}" });
    cluster["status"]["instanceNames"] = json!(["pg-1", "pg-2", "pg-3"]);
    (cluster["status"]["currentPrimary"], cluster["status"]["targetPrimary"]) =
        (json!("pg-1"), json!("pg-1"));
    cluster
}

fn beside() -> Us {
    Us { member: "pg-2".parse().unwrap(), instance: Some("pg-2".to_owned()), site: None }
}

#[test]
fn what_an_agent_beside_us_fenced_is_lifted_by_who_opens_and_by_nobody_else() {
    let us = beside();
    let lifted = json!({ FENCED: null, MARK: null });
    for cluster in [cluster(), replica()] {
        let fenced = read(&of_another(cluster));
        let fence = Fence::of(&fenced, &us);
        assert!(fence.covers && !fence.is_foreign && !fence.is_shared());
        let opened = due(Want::Open, Data::Running, &fenced, &us).unwrap();
        assert_eq!(opened["metadata"]["annotations"], lifted);
        // It may be what holds the acting instance down until it is demoted.
        for want in [Want::Held, Want::Shut, Want::Free] {
            for data in [Data::Standby, Data::RunningStandby, Data::Primary] {
                assert_eq!(due(want, data, &fenced, &us), None, "{want:?} {data:?}");
            }
        }
    }
    // Whoever demotes next makes it its own, and the former owner keeps its hands off.
    let fenced = read(&of_another(cluster()));
    let ours = Fence::of(&fenced, &us).set(&us).unwrap();
    assert_eq!(ours, json!({ FENCED: "[\"*\"]", MARK: "{\"member\":\"pg-2\"}" }));
    // A member of another Cluster, or one that is gone, is not beside us; and a site of one has nobody beside it.
    let mut strange = of_another(cluster());
    strange["status"]["instanceNames"] = json!(["pg-2", "pg-3"]);
    for (cluster, us) in [(strange, us), (of_another(cluster()), self::us())] {
        let fence = Fence::of(&read(&cluster), &us);
        assert!(fence.is_foreign && fence.lift_for_opening().is_none(), "{us:?}");
    }
}

#[test]
fn a_name_beside_the_fence_of_another_stays_fenced() {
    let mut fenced = of_another(cluster());
    fenced["metadata"]["annotations"][FENCED] = json!(r#"["*","pg-3"]"#);
    let fence = Fence::of(&read(&fenced), &beside());
    assert_eq!(fence.lift_for_opening().unwrap()[FENCED], r#"["pg-3"]"#);
    fenced["metadata"]["annotations"][FENCED] = json!(r#"["*","pg-2"]"#);
    assert!(Fence::of(&read(&fenced), &beside()).is_foreign);
}

/// CloudNativePG starts it again when that is lifted, and all others run on.
#[test]
fn a_standby_that_is_to_be_started_again_fences_itself_alone() {
    let mut three = of_another(cluster());
    three["metadata"]["annotations"] = json!({ FENCED: r#"["pg-3"]"# });
    let us = beside();
    let set = Fence::of(&read(&three), &us).set_own(&us).unwrap();
    assert_eq!(set[FENCED], r#"["pg-3","pg-2"]"#);
    three["metadata"]["annotations"] = set;
    let fenced = read(&three);
    let lifted = due(Want::Held, Data::Standby, &fenced, &us).unwrap();
    assert_eq!(lifted["metadata"]["annotations"], json!({ FENCED: r#"["pg-3"]"#, MARK: null }));
    // Whoever acts is not fenced by it, takes nobody's mark away, and can fence all for its demotion.
    let acting = Us { member: "pg-1".parse().unwrap(), instance: Some("pg-1".to_owned()), ..us };
    assert_eq!(due(Want::Open, Data::Running, &fenced, &acting), None);
    let fence = Fence::of(&fenced, &acting);
    assert!(!fence.covers && !fence.is_foreign);
    assert_eq!(fence.set(&acting).unwrap()[MARK], r#"{"before":["pg-3"],"member":"pg-1"}"#);
    // The one mark there is, is not taken from who needs it.
    three["metadata"]["annotations"][FENCED] = json!(r#"["pg-2"]"#);
    let third = Us { member: "pg-3".parse().unwrap(), instance: Some("pg-3".to_owned()), ..acting };
    assert_eq!(Fence::of(&read(&three), &third).set_own(&third), None);
}

#[test]
fn the_mark_of_a_fence_that_a_person_lifted_goes() {
    let us = &us();
    let mut left = cluster();
    left["metadata"]["annotations"] = json!({ MARK: "{\"member\":\"pg-a\"}" });
    let gone = due(Want::Free, Data::Running, &read(&left), us).unwrap();
    assert_eq!(gone["metadata"]["annotations"], json!({ MARK: null }));
}

#[tokio::test]
async fn where_it_can_be_nothing_but_a_standby_the_port_is_given_back() {
    within(async {
        let site = Site::primary(cluster()).await;
        site.act(ladder()).await.unwrap();
        site.mark_standby();
        site.read().await;
        assert!(site.shared.part.holds(), "it would be promoted at once");
        site.api.change(|cluster| cluster["spec"]["replica"]["primary"] = json!("pg-b"));
        site.read().await;
        site.until_port_is_free().await;
        assert_eq!(site.shared.part.want(), Want::Held);
    })
    .await;
}
