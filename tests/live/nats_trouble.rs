//! Agents on a NATS server that has no room, does not let them write, or has another bucket than
//! theirs. What happens before the server is there, with a wrong secret, or with an old server is in
//! `bad_input`.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use harmony_agent::store::nats::{Auth, Settings as Nats};
use harmony_agent::store::{Settings, open};
use serde_json::json;

use super::bad_input::{assert_waits, on_nats};
use super::checks::{assert_nobody_writes, assert_sound, count, until_fenced, until_healed};
use super::cluster::{Member, Place};
use crate::support::nats::{Server, change_stream};

const STREAM: &str = "KV_harmony_bad-input";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn streams(server: &Server) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

/// A member on the server that asks nobody for promises: what it may do by the store alone is seen.
fn member(name: &str, place: &Place, server: &Server) -> Member {
    let mut member = place.member(name);
    on_nats(&mut member, server);
    member.settings["peers"] = json!({"promises": false});
    member
}

/// Two members on the server; the first leads.
fn pair(place: &Place, server: &Server) -> (Member, Member) {
    let (mut a, mut b) = (member("a", place, server), member("b", place, server));
    a.start();
    a.until_leads();
    a.sql("create table t (n int)").unwrap();
    a.sql("insert into t values (1)").unwrap();
    b.start();
    b.until_follows();
    (a, b)
}

fn promotions(member: &Member) -> usize {
    member.log().matches("\"action\":\"promote\"").count()
}

fn until_trouble(member: &Member, words: &str) {
    member.until(words, |status| {
        status["store"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words))
    });
}

#[test]
fn a_full_bucket_fences_by_the_rules_and_is_over_with_room() {
    let place = Place::new();
    let server = Server::start("");
    let (mut a, mut b) = pair(&place, &server);

    // Less than what is in it.
    block_on(change_stream(&server.url(), STREAM, "max_bytes", 100));
    until_fenced(&a);
    for member in [&a, &b] {
        member.until_alarm("store_rejects");
        until_trouble(member, "the store is full");
    }
    assert_nobody_writes(&[&a, &b]);
    assert_eq!(promotions(&b), 0, "{}", b.log());

    block_on(change_stream(&server.url(), STREAM, "max_bytes", 8 << 20));
    let (primary, _) = until_healed(&a, &b);
    assert_eq!(count(primary), 1);
    assert_sound(&mut [&mut a, &mut b]);
}

/// One user, who may write what `keys` says.
fn account(keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("\"$KV.harmony_bad-input.{key}\"")).collect();
    format!(
        "accounts {{ PG {{ jetstream: enabled, users: [
            {{ user: admin, password: admin }},
            {{ user: a, password: secret, permissions: {{
                publish {{ allow: [ {}, \"$JS.API.STREAM.*.{STREAM}\",
                    \"$JS.API.STREAM.MSG.GET.{STREAM}\" ] }}
                subscribe {{ allow: [ \"_INBOX_bad-input_a.>\", \"ev.harmony_bad-input.>\" ] }} }} }}
         ] }} }}\nno_auth_user: admin",
        keys.join(", ")
    )
}

#[test]
fn who_may_not_write_the_lease_never_leads_until_allowed() {
    let place = Place::new();
    let mut server = Server::start(&account(&["heartbeat.a"]));
    let mut a = member("a", &place, &server);
    let password = place.path().join("nats.password");
    std::fs::write(&password, "secret").unwrap();
    a.settings["store"]["nats"]["user"] = json!("a");
    a.settings["store"]["nats"]["password_file"] = json!(password);
    a.start();
    assert_waits(&mut a);
    a.until_alarm("store_rejects");
    until_trouble(&a, "denies access");
    until_trouble(&a, "lease");
    assert!(!a.data_dir().join("PG_VERSION").exists(), "a database without a lease");

    server.restart_with(&account(&["heartbeat.a", "lease", "cluster_state"]));
    a.until_leads();
    a.until("no trouble", |status| status["store"]["trouble"].is_null());

    // Taken away from a primary that leads, and given back.
    a.sql("create table t (n int)").unwrap();
    a.sql("insert into t values (1)").unwrap();
    server.restart_with(&account(&["heartbeat.a", "cluster_state"]));
    until_fenced(&a);
    until_trouble(&a, "denies access");
    assert_nobody_writes(&[&a]);
    server.restart_with(&account(&["heartbeat.a", "lease", "cluster_state"]));
    a.until_leads();
    assert_eq!(count(&a), 1);
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_bucket_with_foreign_settings_is_not_used_until_it_is_away() {
    let place = Place::new();
    let server = Server::start("");
    block_on(async {
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["$KV.harmony_bad-input.>".to_owned()],
            allow_rollup: true,
            ..Default::default()
        };
        streams(&server).await.create_stream(config).await.unwrap();
    });
    let mut a = member("a", &place, &server);
    a.start();
    assert_waits(&mut a);
    a.until_says("is not safe to use");
    a.until_says("allow_rollup_hdrs is true, expected false");
    assert!(!a.data_dir().exists(), "a database without a store");

    block_on(async { streams(&server).await.delete_stream(STREAM).await.unwrap() });
    a.until_leads();
    assert_sound(&mut [&mut a]);
}

#[test]
fn a_bucket_deleted_and_made_anew_is_not_obeyed() {
    let place = Place::new();
    let server = Server::start("");
    let (mut a, mut b) = pair(&place, &server);

    block_on(async {
        streams(&server).await.delete_stream(STREAM).await.unwrap();
        let settings = Nats {
            servers: vec![server.url()],
            auth: Auth::None,
            tls_ca_file: None,
            tls_certificate_file: None,
            tls_key_file: None,
            replicas: 1,
            connect_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(1),
        };
        let (cluster, member) = ("bad-input".parse().unwrap(), "c".parse().unwrap());
        let settings = Settings::Nats(settings);
        open(&cluster, &member, &settings, Duration::from_secs(10)).await.unwrap();
    });
    until_fenced(&a);
    for member in [&a, &b] {
        member.until_alarm("store_rejects");
        until_trouble(member, "the store was lost or replaced");
    }
    assert_nobody_writes(&[&a, &b]);
    assert_eq!(promotions(&b), 0, "{}", b.log());

    // Restarted they see a store that knows less than they do: a person has to decide.
    for member in [&mut a, &mut b] {
        member.kill();
        member.start();
    }
    for member in [&a, &b] {
        member.until_alarm("store_not_obeyed");
    }
    assert_nobody_writes(&[&a, &b]);
    assert!(a.data_dir().join("PG_VERSION").exists());
    assert_sound(&mut [&mut a, &mut b]);
}
