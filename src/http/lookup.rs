//! Names of peers as addresses. A lookup by the operating system cannot be stopped: one that hangs
//! would hold a thread for every question asked meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

type Names = Arc<Mutex<BTreeSet<String>>>;
type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Looks names up, each one by one thread at a time.
#[derive(Debug)]
pub struct Lookups {
    under_way: Names,
    look_up: LookUp,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::new()
    }
}

impl Lookups {
    /// Asks the operating system.
    pub fn new() -> Self {
        let look_up = |name: &str| Ok(name.to_socket_addrs()?.collect());
        Self { under_way: Names::default(), look_up }
    }

    /// Addresses of `authority` (`host:port`). The caller bounds it in time; the lookup goes on then.
    ///
    /// # Errors
    /// What the operating system said, or that a lookup of this name has not ended yet.
    pub async fn addresses(&self, authority: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = authority.parse() {
            return Ok(vec![address]);
        }
        let Some(mark) = Mark::set(&self.under_way, authority) else {
            let text = "the lookup of its name before has not ended; check DNS";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        };
        let look_up = self.look_up;
        let task = move || look_up(&mark.name);
        spawn_blocking(task).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// A lookup under way; belongs to the thread that does it.
struct Mark {
    names: Names,
    name: String,
}

impl Mark {
    fn set(names: &Names, name: &str) -> Option<Self> {
        let is_free = names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        is_free.then(|| Self { names: Arc::clone(names), name: name.to_owned() })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    static BEGUN: AtomicU32 = AtomicU32::new(0);
    static MAY_END: AtomicBool = AtomicBool::new(false);

    /// Stands for a resolver whose servers are away.
    fn hangs(_: &str) -> io::Result<Vec<SocketAddr>> {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        while !MAY_END.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        "127.0.0.1:1".parse().map(|address| vec![address]).map_err(io::Error::other)
    }

    #[tokio::test]
    async fn one_lookup_of_a_name_at_a_time_however_often_it_is_given_up() {
        let lookups = Lookups { look_up: hangs, ..Lookups::new() };
        let asked = timeout(Duration::from_millis(50), lookups.addresses("peer:1")).await;
        assert!(asked.is_err(), "it should hang");
        for _ in 0..10 {
            let error = timeout(LIMIT, lookups.addresses("peer:1")).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        }
        // An address needs no lookup.
        let literal = timeout(LIMIT, lookups.addresses("[::1]:5")).await.unwrap().unwrap();
        assert_eq!(literal, ["[::1]:5".parse().unwrap()]);
        MAY_END.store(true, Ordering::Relaxed);
        let again = async {
            while lookups.addresses("peer:1").await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, again).await.unwrap();
        assert_eq!(BEGUN.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn names_are_looked_up_and_a_panic_frees_the_name() {
        let found = timeout(LIMIT, Lookups::new().addresses("localhost:7")).await.unwrap().unwrap();
        assert!(found.iter().all(|address| address.port() == 7) && !found.is_empty());
        let broken = Lookups { look_up: |_| panic!("broken by a test"), ..Lookups::new() };
        for _ in 0..2 {
            let error = timeout(LIMIT, broken.addresses("peer:1")).await.unwrap().unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::ResourceBusy);
        }
    }
}
