//! Messages between agents over the servers' plain request and reply, which goes on working while
//! JetStream elects a leader.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant as Deadline;

use super::bucket::Bucket;
use crate::core::ids::{ClusterId, MemberId};
use crate::store::{Letter, Mail};
use crate::supervise;

/// Letters that wait to be taken; more are dropped, as messages may be.
const WAITING: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Post {
    bucket: Arc<Bucket>,
    cluster: ClusterId,
}

impl Post {
    pub(super) fn new(bucket: Arc<Bucket>, cluster: ClusterId) -> Self {
        Self { bucket, cluster }
    }

    fn subject(&self, member: &MemberId) -> String {
        format!("harmony_{}.promise.{member}", self.cluster)
    }
}

impl Mail for Post {
    fn request<'a>(
        &'a self,
        to: &'a MemberId,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        async move {
            let deadline = Deadline::now() + timeout;
            let subject = self.subject(to);
            let asked = self.bucket.link.request(&subject, HeaderMap::new(), payload, deadline);
            match asked.await {
                Ok(answer) => Ok(answer.payload.to_vec()),
                Err(unanswered) => Err(format!("by NATS: {unanswered}")),
            }
        }
        .boxed()
    }

    fn letters<'a>(
        &'a self,
        me: &'a MemberId,
    ) -> BoxFuture<'a, Result<mpsc::Receiver<Letter>, String>> {
        async move {
            let subscribed = self.bucket.link.subscribe(self.subject(me)).await;
            let mut arrivals = subscribed.map_err(|unanswered| unanswered.to_string())?;
            let (sender, letters) = mpsc::channel(WAITING);
            // When it ends, the receiver does: whoever has that subscribes again.
            supervise::apart("letters", None, async move {
                loop {
                    let message = tokio::select! {
                        message = arrivals.next() => message,
                        () = sender.closed() => return Ok(()),
                    };
                    let Some(message) = message else {
                        return Err("the subscription ended".to_owned());
                    };
                    let Some(reply) = message.reply else { continue };
                    let letter =
                        Letter { payload: message.payload.to_vec(), reply: reply.to_string() };
                    // One too many is lost, as any message may be.
                    drop(sender.try_send(letter));
                }
            });
            Ok(letters)
        }
        .boxed()
    }

    fn reply(&self, to: Letter, payload: Vec<u8>) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.bucket.link.publish(to.reply, payload).await {
                tracing::debug!(%error, "answer to a peer not sent");
            }
        }
        .boxed()
    }
}
