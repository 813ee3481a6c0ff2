//! Messages as bytes, signed with the secret that the members share, when they share one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::LONGEST_MESSAGE;
use crate::core::ids::ClusterId;
use crate::core::promise::{PromiseAnswer, PromiseRequest};
use crate::core::time::Instant;
use crate::runtime::clock;

/// Shortest secret taken, in bytes.
const SHORTEST_SECRET: usize = 16;

/// For so long the secret is not read again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// How long reading the secret may take.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// Version of the messages.
const SCHEMA: u32 = 1;

/// Signs and checks.
#[derive(Debug)]
pub(super) struct Seal {
    cluster: ClusterId,
    secret: Option<PathBuf>,
    /// What the file last held, and when. Held while it is read: a read cannot be stopped.
    last: Arc<Mutex<Option<(Instant, Key)>>>,
}

type Key = Result<hmac::Key, String>;

/// What goes over the wire: the text, and its HMAC-SHA256 in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

/// The text. `kind` keeps a request from being passed off as an answer.
#[derive(Serialize, Deserialize)]
struct Message<T> {
    schema: u32,
    cluster: ClusterId,
    kind: String,
    body: T,
}

impl Seal {
    pub(super) fn new(cluster: ClusterId, secret: Option<PathBuf>) -> Self {
        Self { cluster, secret, last: Arc::default() }
    }

    pub(super) fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    pub(super) async fn request(&self, request: &PromiseRequest) -> Result<Vec<u8>, String> {
        self.seal(self.key().await?.as_ref(), "promise_request", request)
    }

    pub(super) async fn answer(&self, answer: &PromiseAnswer) -> Result<Vec<u8>, String> {
        self.seal(self.key().await?.as_ref(), "promise_answer", answer)
    }

    pub(super) async fn open_request(&self, bytes: &[u8]) -> Result<PromiseRequest, String> {
        self.open(self.key().await?.as_ref(), "promise_request", bytes)
    }

    pub(super) async fn open_answer(&self, bytes: &[u8]) -> Result<PromiseAnswer, String> {
        self.open(self.key().await?.as_ref(), "promise_answer", bytes)
    }

    /// The key, read again and again so that it can be changed.
    async fn key(&self) -> Result<Option<hmac::Key>, String> {
        let Some(file) = self.secret.clone() else { return Ok(None) };
        let shown = file.display().to_string();
        let key = async {
            let mut last = Arc::clone(&self.last).lock_owned().await;
            if let Some((_, key)) =
                last.as_ref().filter(|(at, _)| clock::now().since(*at) < READ_AGAIN)
            {
                return key.clone();
            }
            let read = move || {
                let key = read(&file);
                *last = Some((clock::now(), key.clone()));
                key
            };
            spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
        };
        let key = timeout(READ_LIMIT, key).await.unwrap_or_else(|_| {
            Err(format!("peers.secret_file {shown}: not read within {READ_LIMIT:?}"))
        });
        key.map(Some)
    }

    pub(super) fn seal<T: Serialize>(
        &self,
        key: Option<&hmac::Key>,
        kind: &str,
        body: T,
    ) -> Result<Vec<u8>, String> {
        let cluster = self.cluster.clone();
        let message = Message { schema: SCHEMA, cluster, kind: kind.to_owned(), body };
        let text = serde_json::to_string(&message).map_err(|error| error.to_string())?;
        let mac = key.map(|key| hex(hmac::sign(key, text.as_bytes()).as_ref()));
        serde_json::to_vec(&Envelope { text, mac }).map_err(|error| error.to_string())
    }

    pub(super) fn open<T: DeserializeOwned>(
        &self,
        key: Option<&hmac::Key>,
        kind: &str,
        bytes: &[u8],
    ) -> Result<T, String> {
        if bytes.len() > LONGEST_MESSAGE {
            return Err(format!("{} bytes, at most {LONGEST_MESSAGE} are taken", bytes.len()));
        }
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| format!("not a message: {error}"))?;
        if let Some(key) = key {
            let mac = envelope.mac.as_deref().and_then(unhex);
            let mac =
                mac.ok_or("not signed, or not as hexadecimal; is peers.secret_file set there?")?;
            hmac::verify(key, envelope.text.as_bytes(), &mac)
                .map_err(|_| "signed with another secret; peers.secret_file must be equal")?;
        }
        let message: Message<serde_json::Value> = serde_json::from_str(&envelope.text)
            .map_err(|error| format!("not a message: {error}"))?;
        if message.schema != SCHEMA {
            return Err(format!("schema {}, this agent knows {SCHEMA}", message.schema));
        }
        if message.cluster != self.cluster {
            return Err(format!("of cluster {}, this is {}", message.cluster, self.cluster));
        }
        if message.kind != kind {
            return Err(format!("a {}, expected a {kind}", message.kind));
        }
        serde_json::from_value(message.body).map_err(|error| format!("a bad {kind}: {error}"))
    }
}

fn read(file: &Path) -> Key {
    let secret = fs::read_to_string(file)
        .map_err(|error| format!("peers.secret_file {}: {error}", file.display()))?;
    let secret = secret.trim();
    if secret.len() < SHORTEST_SECRET {
        return Err(format!(
            "peers.secret_file {} holds {} characters, expected at least {SHORTEST_SECRET}",
            file.display(),
            secret.len()
        ));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::core::ids::Epoch;

    fn request() -> PromiseRequest {
        PromiseRequest {
            incarnation: "life".parse().unwrap(),
            holder: "a".parse().unwrap(),
            boot: "boot".parse().unwrap(),
            epoch: Epoch(3),
            round: 1,
            duration: Duration::from_secs(1),
        }
    }

    fn seal(cluster: &str, secret: Option<&Path>) -> Seal {
        Seal::new(cluster.parse().unwrap(), secret.map(Path::to_owned))
    }

    fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        file
    }

    #[tokio::test]
    async fn only_a_message_of_this_cluster_and_secret_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let one = secret(dir.path(), "one", "0123456789abcdef\n");
        let two = secret(dir.path(), "two", "fedcba9876543210");
        let ours = seal("c", Some(&one));
        let good = ours.request(&request()).await.unwrap();
        assert_eq!(ours.open_request(&good).await.unwrap(), request());
        let refused = async |seal: Seal, bytes: &[u8]| seal.open_request(bytes).await.unwrap_err();
        assert!(refused(seal("c", Some(&two)), &good).await.contains("another secret"));
        assert!(refused(seal("d", Some(&one)), &good).await.contains("of cluster c"));
        let unsigned = seal("c", None).request(&request()).await.unwrap();
        assert!(refused(seal("c", Some(&one)), &unsigned).await.contains("not signed"));
        let error = ours.open_answer(&good).await.unwrap_err();
        assert!(error.contains("expected a promise_answer"));
        let text = String::from_utf8(good).unwrap();
        let changed = text.replace("\\\"epoch\\\":3", "\\\"epoch\\\":4");
        assert_ne!(changed, text);
        let error = refused(seal("c", Some(&one)), changed.as_bytes()).await;
        assert!(error.contains("another secret"));
    }

    #[tokio::test]
    async fn garbage_and_a_bad_secret_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let seal_of = |file: &Path| seal("c", Some(file));
        let long = vec![b'x'; LONGEST_MESSAGE + 1];
        for bad in [&b""[..], b"{}", b"[1]", b"{\"text\":\"{}\",\"mac\":\"\xff\"}", &long] {
            assert!(seal("c", None).open_request(bad).await.is_err());
        }
        for mac in ["", "0", "zz", "é1"] {
            let text = format!("{{\"text\":\"{{}}\",\"mac\":\"{mac}\"}}");
            let good = secret(dir.path(), "good", "0123456789abcdef");
            assert!(seal_of(&good).open_request(text.as_bytes()).await.is_err(), "{mac}");
        }
        let short = secret(dir.path(), "short", "secret");
        let error = seal_of(&short).request(&request()).await.unwrap_err();
        assert!(error.contains("at least 16") && !error.contains("secret\""), "{error}");
        assert!(seal_of(&dir.path().join("none")).request(&request()).await.is_err());
    }

    #[tokio::test]
    async fn a_changed_secret_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = secret(dir.path(), "one", "0123456789abcdef");
        let (ours, theirs) = (seal("c", Some(&file)), seal("c", Some(&file)));
        let before = theirs.request(&request()).await.unwrap();
        assert!(ours.open_request(&before).await.is_ok());
        secret(dir.path(), "one", "fedcba9876543210");
        let refused = async {
            while ours.open_request(&before).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), refused).await.unwrap();
    }

    /// A pipe nobody writes to stands for a file system that does not answer.
    #[tokio::test]
    async fn a_file_that_hangs_is_given_up_and_read_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let seal = seal("c", Some(&file));
        for _ in 0..3 {
            let asked = timeout(Duration::from_secs(20), seal.request(&request())).await;
            let error = asked.unwrap().unwrap_err();
            assert!(error.contains("not read within"), "{error}");
            assert!(seal.last.try_lock().is_err(), "the first one still reads");
        }
        // Ends the one reader: it reads what is written here, and nobody else takes a part of it.
        let write = move || fs::write(&file, "0123456789abcdef");
        timeout(Duration::from_secs(20), spawn_blocking(write)).await.unwrap().unwrap().unwrap();
        let last = timeout(Duration::from_secs(20), seal.last.lock()).await.unwrap();
        assert!(last.as_ref().is_some_and(|(_, key)| key.is_ok()));
    }
}
