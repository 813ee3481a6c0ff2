//! The endpoints of an agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harmony_agent::core::event::{Process, State};
use harmony_agent::http::{Shared, View, serve};
use harmony_agent::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::{database, primary_view, replica_view};

/// A listener that answers from a view and a beat under our control.
pub(super) struct Agent {
    pub(super) address: String,
    pub(super) view: watch::Sender<View>,
    beat_age_ms: Arc<AtomicU64>,
    held_back: Arc<Mutex<Option<String>>>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Agent {
    pub(super) async fn start(view: View) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (view, receiver) = watch::channel(view);
        let beat_age_ms = Arc::new(AtomicU64::new(0));
        let age = Arc::clone(&beat_age_ms);
        let held_back = Arc::new(Mutex::new(None::<String>));
        let held = Arc::clone(&held_back);
        let shared = Shared {
            view: Arc::new(move || receiver.borrow().clone()),
            beat_age: Arc::new(move || Duration::from_millis(age.load(Ordering::Relaxed))),
            beat_limit: Arc::new(|| Duration::from_secs(5)),
            metrics: Metrics::new(),
            promise: None,
            held_back: Arc::new(move || held.lock().unwrap().clone()),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, shared, async {
            stopped.await.ok();
        }));
        Self { address, view, beat_age_ms, held_back, stop, served }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn json(&self, path: &str) -> (u16, serde_json::Value) {
        let (code, body) = self.get(path).await;
        (code, serde_json::from_str(&body).unwrap())
    }

    async fn request(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn beat(&self, age_ms: u64) {
        self.beat_age_ms.store(age_ms, Ordering::Relaxed);
    }
}

/// What the refusal says, and how the view gets there.
type Broken = (&'static str, fn(&mut View));

#[tokio::test]
async fn livez_follows_the_beat() {
    let agent = Agent::start(primary_view()).await;
    assert_eq!(agent.json("/livez").await.0, 200);
    agent.beat(6_000);
    let (code, body) = agent.json("/livez").await;
    assert_eq!(code, 503);
    assert!(body["reason"].as_str().unwrap().contains("6s"), "{body}");
    assert_eq!(agent.json("/readyz").await.0, 503);
}

#[tokio::test]
async fn startup_says_why_the_database_must_not_be_started() {
    let agent = Agent::start(replica_view()).await;
    assert_eq!(agent.json("/startup").await.0, 200);
    *agent.held_back.lock().unwrap() = Some("not yet".to_owned());
    let (code, body) = agent.json("/startup").await;
    assert_eq!((code, &body["reason"]), (503, &serde_json::json!("not yet")));
}

#[tokio::test]
async fn readyz_wants_a_writable_primary_or_a_following_replica() {
    let agent = Agent::start(primary_view()).await;
    assert_eq!(agent.json("/readyz").await.0, 200);
    let broken: [Broken; 4] = [
        ("accept writes", |view| view.writable = false),
        ("run out", |view| view.lease.seconds_left = Some(0.0)),
        ("not held", |view| view.lease.holder = Some("b".parse().unwrap())),
        ("primary_fenced", |view| view.state = State::PrimaryFenced),
    ];
    for (reason, breaks) in broken {
        let mut view = primary_view();
        breaks(&mut view);
        agent.view.send_replace(view);
        let (code, body) = agent.json("/readyz").await;
        assert!(
            code == 503 && body["reason"].as_str().unwrap().contains(reason),
            "{reason}: {body}"
        );
    }
    agent.view.send_replace(replica_view());
    assert_eq!(agent.json("/readyz").await.0, 200);
    let broken: [Broken; 3] = [
        ("no WAL", |view| view.database.as_mut().unwrap().streaming = false),
        ("standby", |view| view.database = Some(database(Process::StoppedStandby))),
        ("not been looked at", |view| view.database = None),
    ];
    for (reason, breaks) in broken {
        let mut view = replica_view();
        breaks(&mut view);
        agent.view.send_replace(view);
        let (code, body) = agent.json("/readyz").await;
        assert!(
            code == 503 && body["reason"].as_str().unwrap().contains(reason),
            "{reason}: {body}"
        );
    }
}

#[tokio::test]
async fn status_reads_back() {
    let agent = Agent::start(primary_view()).await;
    let (code, body) = agent.get("/status").await;
    assert_eq!(code, 200);
    assert_eq!(serde_json::from_str::<View>(&body).unwrap(), primary_view());
}

#[tokio::test]
async fn it_takes_no_orders() {
    let agent = Agent::start(primary_view()).await;
    let order =
        "POST /status HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(agent.request(order).await.0, 405);
    assert_eq!(agent.get("/restart").await.0, 404);
    assert_eq!(agent.get("/metrics").await.0, 200);
}

#[tokio::test]
async fn it_stops_even_with_a_connection_open() {
    let agent = Agent::start(primary_view()).await;
    let _idle = TcpStream::connect(&agent.address).await.unwrap();
    agent.stop.send(()).unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(3), agent.served).await;
    stopped.unwrap().unwrap().unwrap();
}
