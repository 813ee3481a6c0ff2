//! What becomes of an order, step by step.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::exit::{Code, Failure};
use crate::cli::output;
use crate::core::event::State;
use crate::core::ids::{MemberId, Revision};
use crate::core::order::{Answer, Order, Wish};
use crate::core::policy::Policy;
use crate::core::records::{ClusterState, Heartbeat, Lease, Release, Snapshot};
use crate::operator::Operator;

/// Time between two looks at the store.
const LOOK: Duration = Duration::from_millis(50);

/// How long an old primary that handed over may take to follow before we no longer wait to see it.
const REJOIN: Duration = Duration::from_secs(30);

/// Shows what happens until the order is answered; withdraws it when nobody takes it up, and when it is
/// interrupted.
pub(in crate::cli) async fn follow(
    operator: &mut Operator,
    order: &Order,
    (revision, lease): (Revision, &Lease),
    policy: &Policy,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut seen = Seen::new(revision, lease);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        // A store that does not answer for a moment is asked again; the limit stands.
        if let Ok(snapshot) = operator.read().await {
            seen.tell(operator, &snapshot, begun).await?;
            if let Some(answer) = answer(&snapshot, order) {
                return end(operator, &mut seen, answer, order, lease, begun).await;
            }
        }
        let limit = if seen.begun(lease) { whole(policy) } else { patience(order, lease, policy) };
        if begun.elapsed() >= limit {
            return withdraw(operator, order, &seen, "nobody carried it out in time").await;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = &mut interrupted => {
                return withdraw(operator, order, &seen, "interrupted").await;
            }
        }
    }
}

/// How long nothing may happen at all.
fn patience(order: &Order, lease: &Lease, policy: &Policy) -> Duration {
    let reaction =
        policy.order_patience() + policy.heartbeat_interval * 2 + policy.heartbeat_timeout * 4;
    match order.wish {
        Wish::Failover { .. } => policy.failover_timeout(lease.lease_duration) * 2 + reaction,
        Wish::Switchover | Wish::Failback => {
            policy.failover_timeout(lease.lease_duration) + reaction
        }
    }
}

/// How long all of it may take.
fn whole(policy: &Policy) -> Duration {
    policy.stop_timeout * 2
        + demotion(policy)
        + policy.hand_over_timeout * 2
        + policy.start_timeout
        + policy.promote_timeout
        + policy.failover_timeout(policy.lease_duration)
}

/// How long an old primary may take to become a standby before it releases the lease.
fn demotion(policy: &Policy) -> Duration {
    if policy.demotes { policy.promote_timeout } else { Duration::ZERO }
}

fn tell(begun: Instant, line: &str) -> Result<(), Failure> {
    output::print(&format!("{:8.3} s  {}", begun.elapsed().as_secs_f64(), output::plain(line)))
}

fn answer(snapshot: &Snapshot, order: &Order) -> Option<Answer> {
    let answer = snapshot.cluster.record()?.answer.as_ref()?;
    (answer.id == order.id).then(|| answer.clone())
}

async fn end(
    operator: &Operator,
    seen: &mut Seen,
    answer: Answer,
    order: &Order,
    lease: &Lease,
    begun: Instant,
) -> Result<(), Failure> {
    let text = output::plain(&answer.text);
    if !answer.done {
        let text = format!("{} refused, or not carried out: {text}", order.wish.name());
        return Err(Failure::new(Code::Temporary, text));
    }
    tell(begun, &text)?;
    // Whoever died instead of handing over may never come back.
    let patience = if seen.released { REJOIN } else { Duration::ZERO };
    let end = Instant::now() + patience;
    while !order.rehearsal && !seen.follows(&lease.holder) {
        if Instant::now() >= end {
            let line = format!(
                "{} does not follow yet; `harmony-agent status` shows when it does",
                lease.holder
            );
            return tell(begun, &line);
        }
        sleep(LOOK).await;
        if let Ok(snapshot) = operator.read().await {
            seen.tell(operator, &snapshot, begun).await?;
        }
    }
    Ok(())
}

/// Takes the order back; it may have been carried out just before.
async fn withdraw(
    operator: &mut Operator,
    order: &Order,
    seen: &Seen,
    why: &str,
) -> Result<(), Failure> {
    let without = |_: &Snapshot, cluster: ClusterState| {
        let ours = cluster.order.as_ref().is_some_and(|open| open.id == order.id);
        Ok(ours.then_some(ClusterState { order: None, ..cluster }))
    };
    let withdrawn = operator.change(without).await.map_err(super::failure)?;
    let hint = seen.hint(order);
    let what = if withdrawn {
        "withdrawn: a primary that had not stopped its database goes on"
    } else {
        "it could not be withdrawn any more"
    };
    let text = format!("{why}; {what}; `harmony-agent status` shows who is the primary{hint}");
    Err(Failure::new(Code::Unavailable, output::plain(&text)))
}

/// What was shown already.
#[derive(Debug)]
struct Seen {
    revision: Revision,
    lease: Lease,
    heartbeats: BTreeMap<MemberId, Heartbeat>,
    /// The lease was given back on the way: its old holder was there.
    released: bool,
}

impl Seen {
    fn new(revision: Revision, lease: &Lease) -> Self {
        let heartbeats = BTreeMap::new();
        Self { revision, lease: lease.clone(), heartbeats, released: false }
    }

    /// Prints what has changed since the last look. A lease may have moved several times.
    async fn tell(
        &mut self,
        operator: &Operator,
        snapshot: &Snapshot,
        begun: Instant,
    ) -> Result<(), Failure> {
        if snapshot.lease.revision() > Some(self.revision) {
            for (revision, lease) in operator.moves().await.unwrap_or_default() {
                if revision > self.revision {
                    let line = moved(&self.lease, &lease);
                    self.released |= lease.released.is_some();
                    (self.revision, self.lease) = (revision, lease);
                    line.map_or(Ok(()), |line| tell(begun, &line))?;
                }
            }
        }
        for (member, slot) in &snapshot.heartbeats {
            let Some(heartbeat) = slot.record() else { continue };
            let before = self.heartbeats.insert(member.clone(), heartbeat.clone());
            // The lease tells more of its holder.
            let before = before.filter(|_| self.lease.holder != *member);
            if let Some(line) = before.and_then(|before| came(member, &before, heartbeat)) {
                tell(begun, &line)?;
            }
        }
        Ok(())
    }

    /// Somebody has begun to carry it out.
    fn begun(&self, lease: &Lease) -> bool {
        let now = &self.lease;
        now.epoch != lease.epoch || now.released.is_some() || now.status == State::PrimaryYielding
    }

    fn follows(&self, member: &MemberId) -> bool {
        let held = self.lease.holder == *member;
        let heartbeat = self.heartbeats.get(member);
        held || heartbeat.is_some_and(|it| it.status == State::ReplicaWatching && it.streaming)
    }

    /// Why the member that was asked for does not take over, as it says.
    fn hint(&self, order: &Order) -> String {
        let named = order.to.as_ref().and_then(|to| Some((to, self.heartbeats.get(to)?)));
        let Some((to, heartbeat)) = named else { return String::new() };
        let why = heartbeat.ineligible.as_ref().or(heartbeat.doubtful.as_ref());
        let why = why.map(|why| format!("\n{to} says: {why}"));
        let lost = match order.wish {
            Wish::Failover { accept_loss: false } if heartbeat.lag > 0 => format!(
                "\n{to} lacks at least {} bytes of what the last primary wrote; with --accept-loss they are lost",
                heartbeat.lag
            ),
            Wish::Failover { .. } | Wish::Switchover | Wish::Failback => String::new(),
        };
        format!("{}{lost}", why.unwrap_or_default())
    }
}

/// What the lease says that it did not say before.
fn moved(before: &Lease, now: &Lease) -> Option<String> {
    let Lease { holder, epoch, status, .. } = now;
    if now.epoch != before.epoch {
        return Some(format!("{holder} took the lease, epoch {epoch}: {status}"));
    }
    match (&before.released, &now.released) {
        (None, Some(Release { to, lsn, fence, .. })) => {
            let to = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
            let lsn = lsn.map_or_else(String::new, |lsn| format!(", which ends at {lsn}"));
            let demotion = fence.0.as_ref().and_then(|fence| fence.demotion.as_ref());
            let demoted = demotion.map_or("", |it| match it.outcome.as_str() {
                "applied" => ", made it a standby",
                "unknown" => ", may have made it a standby",
                _ => "",
            });
            Some(format!("{holder} stopped its database{lsn}{demoted}, and released the lease{to}"))
        }
        _ if before.status != *status => Some(format!("{holder}: {status}")),
        _ => None,
    }
}

/// What a member says that it did not say before.
fn came(member: &MemberId, before: &Heartbeat, now: &Heartbeat) -> Option<String> {
    if before.status != now.status {
        let streaming = if now.streaming { ", streaming" } else { "" };
        return Some(format!("{member}: {}{streaming}", now.status));
    }
    (!before.streaming && now.streaming).then(|| format!("{member} streams"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::journal::{Aside, Demotion, Fence};

    #[test]
    fn a_demotion_is_told_with_the_release() {
        let lease = r#"{"holder":"a","boot":"b","instance":"i","epoch":6,"seq":9,"status":"primary_yielding",
            "lease_duration_ms":15000,"database":{},"address":{"host":"a","port":5432},"released":null}"#;
        let before: Lease = serde_json::from_str(lease).unwrap();
        let told = |outcome: Option<&str>| {
            let demotion = outcome.map(|outcome| Demotion {
                outcome: outcome.to_owned(),
                token: true,
                took_ms: 1,
            });
            let (why, rung) = ("switchover".to_owned(), "fast".to_owned());
            let fence = Fence { why, rung, clean: true, took_ms: 1, demotion };
            let release = Release {
                to: Some("b".parse().unwrap()),
                reason: "switchover".to_owned(),
                lsn: None,
                timeline: Default::default(),
                fence: Aside(Some(fence)),
                token: None,
            };
            moved(&before, &Lease { released: Some(release), ..before.clone() }).unwrap()
        };
        assert_eq!(told(None), "a stopped its database, and released the lease to b");
        let all = "a stopped its database, made it a standby, and released the lease to b";
        assert_eq!(told(Some("applied")), all);
        assert!(told(Some("unknown")).contains("may have made it a standby"));
    }
}
