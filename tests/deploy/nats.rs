//! Three real NATS servers with the configuration that the three sites get: agents open their store with it,
//! and can do nothing that is not theirs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use harmony_agent::store::nats::{Auth, Settings as Nats};
use harmony_agent::store::{Settings, open};
use nkeys::KeyPair;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{documents, kustomize, object, project};
use crate::support::identity::Authority;
use crate::support::nats::{binary, free_ports};

const LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Servers {
    place: TempDir,
    urls: Vec<String>,
    children: Vec<Child>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

/// The environment of a site's server, and its configuration.
fn shipped(name: &str) -> (String, Vec<(String, String)>) {
    let objects = kustomize::build(&project("deploy/kubernetes/nats/sites").join(name)).unwrap();
    let config = object(&objects, "ConfigMap")["data"]["nats.conf"].as_str().unwrap().to_owned();
    let container = &object(&objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let environment = container["env"].as_array().unwrap().iter();
    let environment = environment.map(|one| (text(&one["name"]), text(&one["value"])));
    (config, environment.collect())
}

/// `text` with `from` as `to`; it has to be there.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the configuration has no {from}");
    text.replace(from, to)
}

impl Servers {
    /// Starts all three, with keys and places of this test and all else as shipped.
    fn start(agents: [&KeyPair; 2]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (clients, routes, monitors) = (free_ports(3), free_ports(3), free_ports(3));
        let authority = Authority::new("NATS");
        let (certificate, key) = authority.issue();
        for (name, text) in [
            ("server.pem", certificate),
            ("server-key.pem", key),
            ("ca.pem", authority.certificate()),
        ] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let mut servers = Self { urls: Vec::new(), children: Vec::new(), place };
        for (at, name) in NAMES.iter().enumerate() {
            let (mut config, mut environment) = shipped(name);
            let shipped_keys: Vec<_> = config.split("nkey: ").skip(1).map(first_word).collect();
            let [_, a, b] = &shipped_keys[..] else { panic!("{shipped_keys:?}") };
            config = with(&config, a, &agents[0].public_key());
            config = with(&config, b, &agents[1].public_key());
            config = with(&config, "0.0.0.0:4222", &format!("127.0.0.1:{}", clients[at]));
            config = with(&config, "0.0.0.0:6222", &format!("127.0.0.1:{}", routes[at]));
            config = with(&config, "0.0.0.0:8222", &format!("127.0.0.1:{}", monitors[at]));
            config = with(&config, "/etc/nats-tls", &servers.place.path().display().to_string());
            let data = servers.place.path().join(name);
            config = with(&config, "/var/lib/nats", &data.display().to_string());
            for (other, route) in NAMES.iter().zip(&routes) {
                let host = format!("nats-{other}.example.com:6222");
                config = with(&config, &host, &format!("127.0.0.1:{route}"));
            }
            for (_, value) in &mut environment {
                *value = value.replace(
                    &format!("nats-{name}.example.com:6222"),
                    &format!("127.0.0.1:{}", routes[at]),
                );
            }
            servers.urls.push(format!("tls://127.0.0.1:{}", clients[at]));
            servers.spawn(name, &config, environment);
        }
        servers
    }

    fn spawn(&mut self, name: &str, config: &str, environment: Vec<(String, String)>) {
        let file = self.place.path().join(format!("{name}.conf"));
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(self.log(name)).unwrap();
        let child = Command::new(binary())
            .arg("-c")
            .arg(file)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place.path().join(format!("{name}.log"))
    }

    fn logs(&self) -> String {
        NAMES.map(|name| std::fs::read_to_string(self.log(name)).unwrap_or_default()).join("\n")
    }

    fn settings(&self, seed: &Path) -> Nats {
        Nats {
            servers: self.urls.clone(),
            auth: Auth::Nkey(seed.to_owned()),
            tls_ca_file: Some(self.place.path().join("ca.pem")),
            tls_certificate_file: None,
            tls_key_file: None,
            replicas: 3,
            connect_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(1),
        }
    }

    /// A connection with an agent's key and none of its manners, and what the servers say to it.
    async fn intruder(&self, agent: &KeyPair, member: &str) -> (Client, mpsc::Receiver<String>) {
        let (tell, said) = mpsc::channel(64);
        let client = ConnectOptions::with_nkey(agent.seed().unwrap())
            .add_root_certificates(self.place.path().join("ca.pem"))
            .custom_inbox_prefix(format!("_INBOX_main_{member}"))
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _nobody_listens = tell.try_send(error.to_string());
                    }
                }
            })
            .connect(self.urls.clone())
            .await
            .unwrap();
        (client, said)
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap().to_owned()
}

/// Whether the servers answer with a violation of permissions that names `subject`.
async fn denied(said: &mut mpsc::Receiver<String>, subject: &str) -> bool {
    let heard = async {
        while let Some(text) = said.recv().await {
            let text = text.to_lowercase();
            if text.contains("permissions violation") && text.contains(&subject.to_lowercase()) {
                return true;
            }
        }
        false
    };
    timeout(Duration::from_secs(5), heard).await.unwrap_or(false)
}

#[tokio::test]
async fn agents_get_their_bucket_and_nothing_else() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (a, b) = (KeyPair::new_user(), KeyPair::new_user());
    let servers = Servers::start([&a, &b]);
    let mut stores = Vec::new();
    for (member, agent) in [("pg-a", &a), ("pg-b", &b)] {
        let seed = servers.place.path().join(member);
        std::fs::write(&seed, agent.seed().unwrap()).unwrap();
        let settings = Settings::Nats(servers.settings(&seed));
        let (cluster, member) = ("main".parse().unwrap(), member.parse().unwrap());
        // The first one makes the stream, with three replicas at three sites; each audits it.
        let opened = timeout(LIMIT, open(&cluster, &member, &settings, LIMIT)).await;
        match opened {
            Ok(Ok(store)) => stores.push(store),
            other => panic!("{other:?}\n{}", servers.logs()),
        }
    }
    let (client, mut said) = servers.intruder(&a, "pg-a").await;
    for subject in [
        "$KV.harmony_main.heartbeat.pg-b",
        "$KV.harmony_main.other",
        "$JS.API.STREAM.DELETE.KV_harmony_main",
        "$JS.API.STREAM.PURGE.KV_harmony_main",
        "$JS.API.STREAM.UPDATE.KV_harmony_main",
        "$JS.API.STREAM.MSG.DELETE.KV_harmony_main",
        "$JS.API.STREAM.CREATE.other",
        "$JS.API.CONSUMER.CREATE.KV_harmony_main",
        "_INBOX_main_pg-b.x",
        "$SYS.REQ.SERVER.PING",
    ] {
        client.publish(subject, "x".into()).await.unwrap();
        client.flush().await.unwrap();
        assert!(
            denied(&mut said, subject).await,
            "{subject} may be published to\n{}",
            servers.logs()
        );
    }
    for subject in ["_INBOX_main_pg-b.>", "harmony_main.promise.pg-b", "$KV.>", ">"] {
        let _subscription = client.subscribe(subject).await.unwrap();
        client.flush().await.unwrap();
        assert!(denied(&mut said, subject).await, "{subject} may be subscribed to");
    }
    // One agent asks another one for its promise, and is answered.
    let (other, _said) = servers.intruder(&b, "pg-b").await;
    let mut asked = other.subscribe("harmony_main.promise.pg-b").await.unwrap();
    other.flush().await.unwrap();
    let answering = async {
        while let Some(question) = futures_util::StreamExt::next(&mut asked).await {
            other.publish(question.reply.unwrap(), "yes".into()).await.unwrap();
        }
        panic!("the subscription ended\n{}", servers.logs());
    };
    // Until the other server has heard that somebody listens there.
    let asking = async {
        loop {
            match client.request("harmony_main.promise.pg-b", "?".into()).await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let answered = async {
        tokio::select! { answer = asking => answer, () = answering => unreachable!() }
    };
    let answer = timeout(LIMIT, answered).await.unwrap();
    assert_eq!(&answer.payload[..], b"yes");
}

/// Everything in the three sites' configurations is the same but what the environment says.
#[test]
fn the_servers_differ_in_what_they_are_called() {
    let configs: Vec<_> = NAMES.iter().map(|name| shipped(name).0).collect();
    assert!(configs.iter().all(|config| config == &configs[0]));
    for name in NAMES {
        let (config, environment) = shipped(name);
        let mut words =
            environment.iter().map(|(key, value)| (&key[..], &value[..])).collect::<Vec<_>>();
        words.sort_unstable();
        let (address, site) = (format!("nats-{name}.example.com:6222"), format!("site:{name}"));
        let server = format!("nats-{name}");
        assert_eq!(words, [("ADVERTISE", &address[..]), ("SERVER_NAME", &server), ("SITE", &site)]);
        for key in ["ADVERTISE", "SERVER_NAME", "SITE"] {
            assert!(config.contains(&format!("${key}")), "{key} is not used");
        }
    }
    let permissions = &configs[0];
    for needed in ["sync_interval: always", "unique_tag: \"site:\"", "verify: true"] {
        assert!(permissions.contains(needed), "{needed}");
    }
    let service = documents(&project("deploy/kubernetes/nats/base/service.yaml"));
    assert_eq!(
        service[0]["spec"]["publishNotReadyAddresses"], true,
        "routes come before readiness"
    );
}
