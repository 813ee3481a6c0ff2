//! Every way to connect: let in with the right secret, refused by the setting's name with a wrong
//! one, and back by itself after secrets were rotated on both sides.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use harmony_agent::store::nats::{Auth, Settings as Nats};
use harmony_agent::store::{Key, OpenError, ReadError, Rejection, Settings, Store, open};
use nkeys::KeyPair;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::on_nats::{connect, settings};
use super::suite::{LIMIT, put};
use crate::support::identity::{Authority, Operator};
use crate::support::nats::Server;
use crate::support::proxy::Proxy;

/// Long enough for several tries to connect.
const SHORT: Duration = Duration::from_secs(2);

/// How the two sides know each other; one of several generations.
struct Generation {
    /// Added to the server's configuration.
    server: String,
    /// On the agent's side: names and contents.
    files: Vec<(&'static str, String)>,
}

impl Generation {
    fn rotate(&self, directory: &Path) {
        for (name, content) in &self.files {
            fs::write(directory.join(name), content).unwrap();
        }
    }
}

/// Whether no part of a file of the agent is in `text`.
fn assert_no_secret(text: &str, generations: &[Generation]) {
    let files = generations.iter().flat_map(|generation| &generation.files);
    for line in files.flat_map(|(_, content)| content.lines()).filter(|line| line.len() > 3) {
        assert!(!text.contains(line), "a secret is in {text}");
    }
}

fn assert_refused(why: &Rejection, setting: &str, generations: &[Generation]) {
    let text = why.to_string();
    assert!(text.contains(&format!("store.nats.{setting}")), "{text} should name {setting}");
    assert_no_secret(&text, generations);
}

/// Tries to open for a short time.
async fn refused(settings: &Nats) -> Rejection {
    let (cluster, member) = ("pg".parse().unwrap(), "b".parse().unwrap());
    match open(&cluster, &member, &Settings::Nats(settings.clone()), SHORT).await {
        Err(OpenError::Rejected(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn until_refused(store: &Arc<dyn Store>) -> Rejection {
    let refused = async {
        loop {
            match store.read(&Key::Lease, SHORT).await {
                Err(ReadError::Rejected(why)) => return why,
                Ok(_) | Err(ReadError::Unavailable(_)) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(LIMIT * 3, refused).await.unwrap()
}

async fn until_read(store: &Arc<dyn Store>, wanted: &str) {
    let read = async {
        loop {
            match store.read(&Key::Lease, SHORT).await {
                Ok(Some(found)) => return found,
                Ok(None) | Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let found = timeout(LIMIT * 3, read).await.unwrap();
    assert!(String::from_utf8(found.value).unwrap().contains(wanted));
}

/// What has to hold for a way to connect, with `setting` named when a secret is wrong.
async fn holds(
    directory: &TempDir,
    generations: [Generation; 2],
    setting: &str,
    with: impl Fn(&Server) -> Nats,
) {
    let [old, new] = &generations;
    let directory = directory.path();
    let mut server = Server::start(&old.server);
    let settings = with(&server);

    old.rotate(directory);
    let store = connect("pg", "a", &settings).await.unwrap();
    let first = put(&store, &Key::Lease, None, "a-1").await;
    until_read(&store, "a-1").await;

    new.rotate(directory);
    assert_refused(&refused(&settings).await, setting, &generations);

    // The server first, then the agent's side.
    old.rotate(directory);
    server.restart_with(&new.server);
    assert_refused(&until_refused(&store).await, setting, &generations);
    let trouble = store.health().borrow().trouble.clone().unwrap();
    assert!(trouble.contains(setting), "{trouble}");
    assert_no_secret(&format!("{trouble}{store:?}"), &generations);
    new.rotate(directory);
    until_read(&store, "a-1").await;
    let second = put(&store, &Key::Lease, Some(first), "a-2").await;
    assert!(store.statistics().reconnects >= 1);

    // The agent's side first, then the server: no moment without.
    old.rotate(directory);
    put(&store, &Key::Lease, Some(second), "a-3").await;
    server.restart_with(&old.server);
    until_read(&store, "a-3").await;
}

fn by(server: &Server, auth: Auth) -> Nats {
    Nats { auth, ..settings(vec![server.url()], 1) }
}

#[tokio::test]
async fn a_user_with_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let generation = |password: &str| Generation {
        server: format!("authorization {{ user: harmony, password: {password} }}"),
        files: vec![("secret", format!("{password}\n"))],
    };
    let generations = [generation("hushhush"), generation("hishhish")];
    holds(&directory, generations, "password_file", |server| {
        let auth = Auth::UserPassword { user: "harmony".to_owned(), password_file: file.clone() };
        by(server, auth)
    })
    .await;
}

#[tokio::test]
async fn a_token() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let generation = |token: &str| Generation {
        server: format!("authorization {{ token: {token} }}"),
        files: vec![("secret", token.to_owned())],
    };
    let generations = [generation("hushhush"), generation("hishhish")];
    holds(&directory, generations, "token_file", |server| by(server, Auth::Token(file.clone())))
        .await;
}

#[tokio::test]
async fn an_nkey() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let generation = |pair: &KeyPair| Generation {
        server: format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.public_key()),
        files: vec![("secret", pair.seed().unwrap())],
    };
    let generations = [generation(&KeyPair::new_user()), generation(&KeyPair::new_user())];
    holds(&directory, generations, "nkey_file", |server| by(server, Auth::Nkey(file.clone())))
        .await;
}

#[tokio::test]
async fn a_credentials_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let operator = Operator::new();
    let generation = |signer: &KeyPair| Generation {
        server: operator.server(signer),
        files: vec![("secret", operator.credentials(signer))],
    };
    let generations = [generation(&KeyPair::new_account()), generation(&KeyPair::new_account())];
    holds(&directory, generations, "credentials_file", |server| {
        by(server, Auth::Credentials(file.clone()))
    })
    .await;
}

/// Files of a server: its certificate, and an authority for those of clients.
fn server_tls(directory: &Path, name: &str, issuer: &Authority, clients: Option<&str>) -> String {
    let write = |suffix: &str, content: &str| -> PathBuf {
        let file = directory.join(format!("server-{name}-{suffix}"));
        fs::write(&file, content).unwrap();
        file
    };
    let (certificate, key) = issuer.issue();
    let (certificate, key) = (write("cert", &certificate), write("key", &key));
    let verify = clients.map_or_else(String::new, |authority| {
        format!("ca_file: {:?}, verify: true", write("clients", authority))
    });
    format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, {verify} }}")
}

#[tokio::test]
async fn tls_with_an_authority_of_our_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca");
    let generation = |name: &str| {
        let authority = Authority::new(name);
        Generation {
            server: server_tls(directory.path(), name, &authority, None),
            files: vec![("ca", authority.certificate())],
        }
    };
    holds(&directory, [generation("one"), generation("two")], "tls_ca_file", |server| Nats {
        tls_ca_file: Some(file.clone()),
        ..settings(vec![server.tls_url()], 1)
    })
    .await;
}

fn mutual(server: &Server, directory: &Path) -> Nats {
    Nats {
        tls_ca_file: Some(directory.join("ca")),
        tls_certificate_file: Some(directory.join("cert")),
        tls_key_file: Some(directory.join("key")),
        ..settings(vec![server.tls_url()], 1)
    }
}

/// One authority for servers, another one for each generation of clients.
fn mutual_generations(directory: &Path) -> [Generation; 2] {
    let servers = Authority::new("servers");
    fs::write(directory.join("ca"), servers.certificate()).unwrap();
    ["one", "two"].map(|name| {
        let clients = Authority::new(name);
        let (certificate, key) = clients.issue();
        Generation {
            server: server_tls(directory, name, &servers, Some(&clients.certificate())),
            files: vec![("cert", certificate), ("key", key)],
        }
    })
}

#[tokio::test]
async fn mutual_tls() {
    let directory = tempfile::tempdir().unwrap();
    let generations = mutual_generations(directory.path());
    holds(&directory, generations, "tls_certificate_file", |server| {
        mutual(server, directory.path())
    })
    .await;
}

#[tokio::test]
async fn what_is_missing_or_broken_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let generations = mutual_generations(directory.path());
    generations[0].rotate(directory.path());
    let server = Server::start(&generations[0].server);
    let right = mutual(&server, directory.path());
    connect("pg", "a", &right).await.unwrap();

    let garbage = directory.path().join("garbage");
    fs::write(&garbage, "garbage").unwrap();
    let gone = directory.path().join("gone");
    let key = |file: &Path| Nats { tls_key_file: Some(file.to_owned()), ..right.clone() };
    let other = directory.path().join("other");
    fs::write(&other, Authority::new("x").issue().1).unwrap();
    let without = Nats { tls_certificate_file: None, tls_key_file: None, ..right.clone() };
    let system = Nats { tls_ca_file: None, ..right.clone() };
    let cases = [
        (without, "tls_certificate_file"),
        (system, "tls_ca_file"),
        (Nats { tls_ca_file: Some(gone.clone()), ..right.clone() }, "tls_ca_file"),
        (Nats { tls_ca_file: Some(garbage.clone()), ..right.clone() }, "tls_ca_file"),
        (key(&gone), "tls_key_file"),
        (key(&garbage), "tls_key_file"),
        (key(&other), "tls_key_file"),
    ];
    for (settings, setting) in cases {
        assert_refused(&refused(&settings).await, setting, &generations);
    }

    let plain = Server::start("authorization { token: hushhush }");
    for (auth, setting) in [
        (Auth::Token(gone.clone()), "token_file"),
        (Auth::Nkey(garbage.clone()), "nkey_file"),
        (Auth::Credentials(garbage.clone()), "credentials_file"),
        (Auth::None, ": "),
    ] {
        let why = refused(&by(&plain, auth)).await.to_string();
        assert!(why.contains("store.nats") && why.contains(setting), "{why}");
        assert!(!why.contains("garbage\n") && !why.contains("hushhush"), "{why}");
    }
    let no_tls = Nats { servers: vec![plain.tls_url()], ..right };
    assert_refused(&refused(&no_tls).await, "servers", &generations);
}

#[tokio::test]
async fn a_store_that_was_not_opened_knocks_no_more() {
    let server = Server::start("authorization { token: hushhush }");
    let proxy = Proxy::start(server.port()).await;
    for _ in 0..3 {
        let settings = settings(vec![proxy.url()], 1);
        refused(&settings).await;
    }
    // One that was under way when it was given up may still be accepted.
    sleep(Duration::from_millis(200)).await;
    let before = proxy.accepted();
    sleep(SHORT).await;
    assert_eq!(proxy.accepted(), before, "somebody goes on connecting");
}
