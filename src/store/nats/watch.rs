//! In the background: passes hints on, and asks every now and then whether the bucket is still the
//! one that was opened.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::time::{Instant as Deadline, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::bucket::Bucket;
use super::link::Unanswered;
use crate::store::pulse::Pulse;
use crate::store::{Hint, OpenError, ReadError};
use crate::supervise::{self, End};

/// Time between two looks at the bucket.
const LOOK: Duration = Duration::from_secs(2);

/// Time between two looks at a bucket that seems to be gone.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Longest wait for one look.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Names in logs.
const HINTS: &str = "nats hints";
const BUCKET: &str = "nats bucket watch";

/// What watches; ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _hints: AbortOnDropHandle<()>,
    _look: AbortOnDropHandle<()>,
}

/// Begins to watch, until the handle is dropped.
pub(super) async fn spawn(
    bucket: Arc<Bucket>,
    pulse: Arc<Pulse>,
    deadline: Deadline,
) -> Result<Watch, OpenError> {
    let subscribed = tokio::time::timeout_at(deadline, bucket.link.subscribe(bucket.hints()));
    let hints = match subscribed.await {
        Ok(Ok(hints)) => hints,
        Ok(Err(unanswered)) => return Err(ReadError::from(unanswered).into()),
        Err(_) => return Err(ReadError::from(Unanswered::NotSent("busy".to_owned())).into()),
    };
    let mut first = Some(hints);
    let (of, to) = (Arc::clone(&bucket), Arc::clone(&pulse));
    let listening = move || listen(first.take(), Arc::clone(&of), Arc::clone(&to));
    Ok(Watch {
        _hints: supervise::keep(HINTS, listening),
        _look: supervise::keep(BUCKET, move || look(Arc::clone(&bucket), Arc::clone(&pulse))),
    })
}

async fn listen(first: Option<Subscriber>, bucket: Arc<Bucket>, pulse: Arc<Pulse>) -> End {
    let mut hints = match first {
        Some(hints) => hints,
        None => match bucket.link.subscribe(bucket.hints()).await {
            Ok(hints) => hints,
            Err(unanswered) => return End::Lost(unanswered.to_string()),
        },
    };
    // Some may have been missed.
    pulse.hint(Hint::Resync);
    while let Some(message) = hints.next().await {
        if let Some(key) = bucket.hinted(&message.subject) {
            pulse.hint(Hint::Changed(key));
        }
    }
    End::Lost("the connection's task ended".to_owned())
}

async fn look(bucket: Arc<Bucket>, pulse: Arc<Pulse>) -> End {
    let mut news = bucket.link.news();
    let mut often = interval(LOOK);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lost = false;
    loop {
        tokio::select! {
            _ = often.tick() => {}
            changed = news.changed() => if changed.is_err() {
                return End::Lost("the connection ended".to_owned());
            },
        }
        if !news.borrow_and_update().connected {
            continue;
        }
        if let Err(error) = bucket.examine(Deadline::now() + PATIENCE).await {
            pulse.trouble(&error.to_string());
            often.reset_after(LOOK_AGAIN);
        }
        let now_lost = bucket.guard().is_err();
        if now_lost != lost {
            lost = now_lost;
            pulse.hint(Hint::Resync);
        }
    }
}
