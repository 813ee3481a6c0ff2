//! Tokens: which is sent, which is refused before, and when one is cleared.

use serde_json::{Value, json};

use super::super::keeper::due;
use super::super::part::{Data, Want};
use super::super::role;
use super::super::{cluster::Cluster, token};
use super::api::Say;
use super::site::{END, SYSTEM, Site, cluster, replica, us};
use super::within;
use crate::core::event::Action;
use crate::core::ids::{SystemId, TimelineId};
use crate::core::token::Token;
use crate::database::cnpg::token::tests::written;
use crate::database::server::outcome::Failure;

pub(super) fn token(system: &str, timeline: &str, redo: &str) -> Token {
    token::read(&written(system, timeline, redo)).unwrap()
}

#[test]
fn a_token_that_is_another_one_s_is_not_even_sent() {
    let system: Option<SystemId> = Some(SYSTEM.parse().unwrap());
    let ours = token(SYSTEM, "2", END);
    assert!(role::fits(&ours, system, TimelineId(2)).is_ok());
    assert!(role::fits(&ours, system, TimelineId(1)).is_ok(), "CloudNativePG waits for the rest");
    for (token, system, timeline) in [
        (token("7", "2", END), system, 2),
        (ours.clone(), None, 2),
        (ours.clone(), system, 3),
        (Token { timeline: TimelineId(5), ..ours.clone() }, system, 2),
        (Token { value: "bm9uZQ==".parse().unwrap(), ..ours.clone() }, system, 2),
    ] {
        let why = role::fits(&token, system, TimelineId(timeline)).unwrap_err();
        assert!(!why.text().contains(token.value.reveal()), "{why:?}");
    }
}

/// CloudNativePG looks at the whole object, and repeats the token that it had before.
#[tokio::test]
async fn a_token_that_is_not_ours_is_not_repeated_either() {
    within(async {
        let token = "eyJkYXRhYmFzZVN5c3RlbUlkZW50aWZpZXIiOiI3NDExMTExMTExMTExMTExMTExIn0=";
        let site = Site::standby(replica()).await;
        let said = format!(
            "admission webhook \"vcluster.cnpg.io\" denied the request: Cluster.cluster.cnpg.io \"pg\" is invalid: \
             spec.replica.promotionToken: Invalid value: \"{token}\": token, {token}) at {}",
            "/apis/postgresql.cnpg.io/v1/namespaces/a-name-of-some-length/clusters/pg"
        );
        site.api.world().always = vec![("patch", Say::code(422, &said))];
        let cluster = site.shared.api.read().await.unwrap();
        let trouble = site.shared.api.rehearse(&cluster).await.unwrap_err().to_string();
        assert_eq!(trouble, format!("refused: {}", said.replace(token, "(token)")));
    })
    .await;
}

#[tokio::test]
async fn without_the_data_s_word_no_token_is_sent() {
    within(async {
        let site = Site::standby(replica()).await;
        let action = Action::PromoteWith { token: token(SYSTEM, "2", END) };
        let failure = site.act(action).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{failure:?}");
        assert!(site.api.world().sent.is_empty());
    })
    .await;
}

#[test]
fn a_used_token_is_cleared_and_no_other() {
    let us = &us();
    let of = |spec: Value, used: Value, role: &dyn Fn() -> Value| {
        let mut value = role();
        value["spec"]["replica"]["promotionToken"] = spec;
        value["status"]["lastPromotionToken"] = used;
        let cluster: Cluster = serde_json::from_value(value).unwrap();
        due(Want::Open, Data::Running, &cluster, us)
    };
    let cleared = json!({ "spec": { "replica": { "promotionToken": null } } });
    assert_eq!(of(json!("dG9r"), json!("dG9r"), &cluster), Some(cleared));
    assert_eq!(of(json!("dG9r"), json!(""), &cluster), None, "not used yet");
    assert_eq!(of(json!("dG9r"), json!("b2xk"), &cluster), None, "another one was");
    assert_eq!(of(json!(null), json!(null), &cluster), None);
    assert_eq!(of(json!("dG9r"), json!("dG9r"), &replica), None, "not promoted");
}

#[tokio::test]
async fn a_token_is_said_nowhere() {
    within(async {
        let ours = token(SYSTEM, "2", END);
        let text = ours.value.reveal().to_owned();
        let site = Site::standby(replica()).await;
        let refusal = format!("spec.replica.token: Invalid value: \"{text}\": no");
        site.api.world().patches = [Say::code(422, &refusal)].into();
        let cancel = tokio_util::sync::CancellationToken::new();
        let us = &us();
        let decide = |cluster: &Cluster| role::promotion(cluster, us, Some(&ours));
        let failure = site.shared.change(decide, &cancel).await.unwrap_err();
        assert!(failure.text().contains("Invalid value") && !failure.text().contains(&text));

        let mut value = cluster();
        value["spec"]["replica"]["promotionToken"] = json!(text);
        value["status"]["demotionToken"] = json!(text);
        let read: Cluster = serde_json::from_value(value.clone()).unwrap();
        assert!(!format!("{read:?} {read:#?}").contains(&text));
        value["spec"]["instances"] = json!(text);
        site.api.world().gets = [Say::Text(value.to_string())].into();
        let trouble = site.shared.api.read().await.unwrap_err().to_string();
        assert!(trouble.contains("not understood") && !trouble.contains(&text), "{trouble}");
    })
    .await;
}
