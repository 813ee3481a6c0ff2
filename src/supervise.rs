//! Tasks that have to be there for as long as their owner: one that panics, or ends before its
//! time, is logged by name and begun again, at a bounded rate.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Pause before a task is begun again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Having run for so long, a task is begun again after the first pause.
const SETTLED: Duration = Duration::from_secs(30);

/// How a task ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// There is nothing left to do for it.
    Done,
    /// What it worked on ended; for logs.
    Lost(String),
}

/// Runs `task`, called anew for each run, until it is [`End::Done`] or the handle is dropped. What
/// has to survive a run that panics belongs to the closure, not to the future it makes.
pub fn keep<F>(
    name: &'static str,
    mut task: impl FnMut() -> F + Send + 'static,
) -> AbortOnDropHandle<()>
where
    F: Future<Output = End> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut last = Duration::ZERO;
        loop {
            let began = Instant::now();
            let run = async {
                tokio::select! {
                    biased;
                    () = trial::broken(name) => panic!("broken by a test"),
                    end = task() => end,
                }
            };
            let error = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(End::Done) => return,
                Ok(End::Lost(why)) => why,
                Err(panic) => format!("it panicked: {}", words(panic.as_ref())),
            };
            last = pause(last, began.elapsed());
            tracing::error!(service = name, error, pause = ?last, "service broke; starting it again");
            sleep(last).await;
        }
    }))
}

/// Runs `task` once, apart from whoever begins it, for at most `limit` if there is one. Nobody waits
/// for it: that it failed, was given up or panicked is only logged.
pub fn apart<F>(name: &'static str, limit: Option<Duration>, task: F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    drop(tokio::spawn(async move {
        if let Err(error) = bounded(limit, task).await {
            tracing::warn!(task = name, error, "task failed");
        }
    }));
}

async fn bounded(
    limit: Option<Duration>,
    task: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let task = AssertUnwindSafe(task).catch_unwind();
    let ended = match limit {
        Some(limit) => timeout(limit, task).await.map_err(|_| format!("not done in {limit:?}"))?,
        None => task.await,
    };
    ended.unwrap_or_else(|panic| Err(format!("it panicked: {}", words(panic.as_ref()))))
}

/// The pause before the next run, after the `last` one and a run that took `ran`.
fn pause(last: Duration, ran: Duration) -> Duration {
    if ran >= SETTLED { FIRST_PAUSE } else { (last * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) }
}

/// What a panic said.
pub fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// How tests break a task that would not break by itself.
pub mod trial {
    use tokio::sync::watch;

    thread_local! {
        static BREAK: watch::Sender<&'static str> = watch::Sender::new("");
    }

    /// Makes every task kept under `name` that runs on this thread panic, once.
    pub fn break_once(name: &'static str) {
        BREAK.with(|sender| sender.send_replace(name));
    }

    /// The same for code that somebody else's task calls: panics when `name` is to break.
    pub(crate) fn check(name: &str) {
        let meant = BREAK.with(|sender| {
            sender.send_if_modified(|order| {
                let meant = *order == name;
                if meant {
                    *order = "";
                }
                meant
            })
        });
        assert!(!meant, "broken by a test");
    }

    pub(super) async fn broken(name: &str) {
        let mut orders = BREAK.with(watch::Sender::subscribe);
        while orders.changed().await.is_ok() {
            if *orders.borrow_and_update() == name {
                return;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// More than the pauses after two runs.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Keeps a task that ends its n-th run as `end` says, until it is done; tells how many there were.
    async fn runs(end: fn(u32) -> End) -> u32 {
        let begun = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&begun);
        let kept = keep("test", move || {
            let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
            async move { end(number) }
        });
        timeout(LIMIT, kept).await.unwrap().unwrap();
        begun.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_panics_or_is_lost_comes_back_and_what_is_done_does_not() {
        assert_eq!(runs(|_| End::Done).await, 1);
        let panics = |number| if number < 3 { panic!("run {number}") } else { End::Done };
        assert_eq!(runs(panics).await, 3);
        let lost = |number| if number < 3 { End::Lost("gone".to_owned()) } else { End::Done };
        assert_eq!(runs(lost).await, 3);
    }

    #[tokio::test]
    async fn what_cannot_even_begin_comes_back_too() {
        let begun = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&begun);
        let kept = keep("test", move || {
            assert!(counter.fetch_add(1, Ordering::Relaxed) > 0, "no run");
            std::future::ready(End::Done)
        });
        timeout(LIMIT, kept).await.unwrap().unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn it_ends_with_its_handle() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
        let kept = keep("test", move || {
            let sender = sender.clone();
            async move {
                let _open = sender;
                std::future::pending().await
            }
        });
        tokio::task::yield_now().await;
        drop(kept);
        assert_eq!(timeout(LIMIT, receiver.recv()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn how_a_task_apart_failed_is_told() {
        let done = bounded(Some(LIMIT), async { Ok(()) }).await;
        assert_eq!(done, Ok(()));
        let failed = bounded(None, async { Err("no".to_owned()) }).await;
        assert_eq!(failed, Err("no".to_owned()));
        let hangs = bounded(Some(Duration::from_millis(20)), std::future::pending());
        let error = timeout(LIMIT, hangs).await.unwrap().unwrap_err();
        assert!(error.contains("not done"), "{error}");
        let panics = bounded(None, async { panic!("broken by a test") });
        assert_eq!(panics.await, Err("it panicked: broken by a test".to_owned()));
    }

    #[test]
    fn the_rate_is_bounded() {
        let (mut last, mut total) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..20 {
            let next = pause(last, Duration::ZERO);
            assert!(next >= last && next >= FIRST_PAUSE && next <= LONGEST_PAUSE);
            (last, total) = (next, total + next);
        }
        assert!(total > Duration::from_secs(60), "20 runs in {total:?}");
        assert_eq!(pause(last, SETTLED), FIRST_PAUSE);
    }

    #[test]
    fn the_words_of_a_panic_are_kept() {
        assert_eq!(words(&"a"), "a");
        assert_eq!(words(&"b".to_owned()), "b");
        assert_eq!(words(&1), "no message");
    }
}
