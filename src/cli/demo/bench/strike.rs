//! What happens to the primary itself: it is killed, stopped, restarted, or asked to hand over.

use std::time::Duration;

use anyhow::bail;
use rustix::process::Signal;
use tokio::time::sleep;
use uuid::Uuid;

use super::{AFTER, AWAY, Bench, LOOK, Taken, is_served};
use crate::cli::demo::cluster::REJOIN;
use crate::cli::demo::facts::Facts;
use crate::cli::demo::fault::Fault;
use crate::cli::demo::hand;
use crate::cli::demo::ledger::{Ack, SharedLedger};
use crate::cli::demo::member::PREFERRED;
use crate::cli::demo::report::Milliseconds;
use crate::cli::demo::said::Said;
use crate::core::event::ShutdownMode;
use crate::core::order::Wish;
use crate::core::time::Instant;
use crate::postmaster::now;

/// A client still with the old primary so long after somebody took over will not move by itself.
const ASTRAY: Duration = Duration::from_secs(2);

/// What was done, to whom, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injected {
    /// Index of the member.
    pub(super) member: usize,
    /// When, or since when the rest had to act.
    pub(super) at: Instant,
    /// Since when the member's agent is running (again), when that was at once.
    pub(super) running: Option<Instant>,
    /// The order that was given, if one was.
    pub(super) order: Option<Uuid>,
}

/// How the cluster took it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The client's first commit on another member.
    pub(super) failover: Option<Ack>,
    /// When the member did its part again, when it did already.
    pub(super) back: Option<Instant>,
    /// End of the window in which the gap is looked for.
    pub(super) end: Instant,
}

impl Bench<'_> {
    /// Does it to the member at `primary`, and measures how long clients are without one.
    ///
    /// # Errors
    /// The cluster did not take it as it should have.
    pub(super) async fn strike(
        &mut self,
        ledger: &SharedLedger,
        primary: usize,
    ) -> anyhow::Result<Taken> {
        let marks = self.log_lengths();
        let injected = self.inject(primary).await?;
        let outcome = self.watch(ledger, injected).await?;
        let gap = self.gap(ledger, injected.at, outcome.end);
        let phases = self.phases(&marks, injected, outcome)?;
        let rejoin = self.rejoin(injected, outcome).await?;
        Ok(Taken { gap, phases, rejoin, facts: self.failed_back(injected, outcome) })
    }

    /// What there is to say of a way back to the preferred member.
    fn failed_back(&self, injected: Injected, outcome: Outcome) -> Option<Facts> {
        let first = outcome.failover.filter(|_| self.fault == Fault::Failback)?;
        Some(Facts::Failback {
            preferred: PREFERRED.to_owned(),
            from: self.cluster.members[injected.member].name.clone(),
            order_to_commit_ms: Milliseconds::of(first.at.since(injected.at)),
        })
    }

    /// Where a preferred member is to come back, another one leads at first, and counts on it.
    ///
    /// # Errors
    /// That did not come about.
    pub(super) async fn send_away(&mut self) -> anyhow::Result<()> {
        let primary = self.cluster.all_follow(REJOIN).await?;
        if self.cluster.members[primary].name == PREFERRED {
            let met = |said: &[Option<Said>]| {
                said.iter().flatten().any(|said| said.leads() && !said.line.is_empty())
            };
            self.cluster.until("the primary counts on somebody", AWAY, met).await?;
            hand::ask(self.config, Wish::Switchover).await?;
            self.cluster.board.say(format!("{PREFERRED} hands over, to be asked back"));
        }
        let met = |said: &[Option<Said>]| {
            let counts_on =
                |said: &Said| said.leads() && said.line.iter().any(|it| it == PREFERRED);
            said.iter().flatten().any(counts_on)
        };
        self.cluster.until(&format!("another primary counts on {PREFERRED}"), REJOIN, met).await
    }

    async fn inject(&mut self, index: usize) -> anyhow::Result<Injected> {
        let (fault, name) = (self.fault, self.cluster.members[index].name.clone());
        let (at, order) = match fault {
            Fault::Switchover => self.ask(Wish::Switchover).await?,
            Fault::Failback => self.ask(Wish::Failback).await?,
            Fault::None
            | Fault::NodeKill
            | Fault::PgKill
            | Fault::AgentKill
            | Fault::AgentFreeze
            | Fault::AgentRestart
            | Fault::AgentTerm
            | Fault::PauseKill
            | Fault::StoreOutage
            | Fault::StoreReplace => (fault.inject(&self.cluster.members[index])?, None),
        };
        self.cluster.board.say(format!("{} of the primary {name}", fault.name()));
        let running = match fault {
            Fault::None
            | Fault::NodeKill
            | Fault::AgentKill
            | Fault::AgentFreeze
            | Fault::PauseKill
            | Fault::StoreOutage
            | Fault::StoreReplace => None,
            // Its agent goes on, and is done when it follows.
            Fault::PgKill | Fault::Switchover | Fault::Failback => Some(at),
            Fault::AgentRestart => Some(self.restart(index).await?),
            Fault::AgentTerm => match self.config.on_sigterm {
                ShutdownMode::LeaveRunning => Some(self.restart(index).await?),
                ShutdownMode::HandOver => None,
            },
        };
        Ok(Injected { member: index, at, running, order })
    }

    /// Asks for another primary.
    async fn ask(&self, wish: Wish) -> anyhow::Result<(Instant, Option<Uuid>)> {
        let (id, at) = hand::ask(self.config, wish).await?;
        Ok((at, Some(id)))
    }

    /// Starts the agent again as soon as it has ended; returns when.
    async fn restart(&mut self, index: usize) -> anyhow::Result<Instant> {
        let limit = self.config.policy.shutdown_timeout + Duration::from_secs(5);
        let end = now() + limit;
        let member = &mut self.cluster.members[index];
        while member.agent_pid().is_some() && member.ended().is_none() {
            if now() > end {
                bail!(
                    "the agent of {} did not end within {limit:?}; its log:\n{}",
                    member.name,
                    member.tail()
                );
            }
            sleep(Duration::from_millis(1)).await;
        }
        member.start()?;
        Ok(now())
    }

    /// Watches until the service is back and has been for a while, or was never away.
    ///
    /// # Errors
    /// It did not come back, or what was asked for was refused.
    pub(super) async fn watch(
        &self,
        ledger: &SharedLedger,
        injected: Injected,
    ) -> anyhow::Result<Outcome> {
        let policy = &self.config.policy;
        let lease = policy.failover_timeout(policy.lease_duration);
        let (quiet, limit) = (injected.at + lease + AFTER, injected.at + lease + AWAY);
        let mut back = None;
        loop {
            let failover = ledger.lock().first_after_failover(injected.at);
            let taken_over = ledger.lock().first_taken_over(injected.at);
            if back.is_none() {
                back = self.back(injected, failover.is_some()).await?;
            }
            let end = now();
            let is_over = match (failover, taken_over) {
                (Some(first), _) => end > first.at + AFTER,
                // The client never left the old primary although there is a new one: two of them.
                (None, Some(other)) => end > other.at + ASTRAY,
                (None, None) => end > quiet && !self.must_fail_over(),
            };
            if is_over && is_served(ledger) {
                return Ok(Outcome { failover, back, end });
            }
            if end > limit {
                let said = self.cluster.ask().await;
                let what = if is_served(ledger) {
                    "no failover happened"
                } else {
                    "the client is not served"
                };
                let after = limit.since(injected.at);
                bail!(
                    "{what} within {after:?} after {}\n{}",
                    self.fault.name(),
                    self.cluster.account(&said)
                );
            }
            sleep(LOOK).await;
        }
    }

    /// When the member whose agent runs again does its part: now, or not yet.
    async fn back(&self, injected: Injected, failed_over: bool) -> anyhow::Result<Option<Instant>> {
        if injected.running.is_none() {
            return Ok(None);
        }
        let Some(said) = self.cluster.members[injected.member].ask().await else { return Ok(None) };
        let ours = |id: &str| injected.order.is_some_and(|order| order.to_string() == id);
        if let Some(answer) = said.answer.as_ref().filter(|answer| !answer.done && ours(&answer.id))
        {
            bail!("what was asked for was refused, or not carried out: {}", answer.text);
        }
        let is_ambiguous =
            matches!(self.fault, Fault::PgKill | Fault::Switchover | Fault::Failback);
        // Right after PostgreSQL's death, or an order, its agent may still say that it leads.
        let leads = said.leads() && !is_ambiguous;
        Ok((leads || (failed_over && said.follows())).then(now))
    }

    fn must_fail_over(&self) -> bool {
        self.cluster.members.len() > 1
            && match self.fault {
                Fault::NodeKill
                | Fault::AgentKill
                | Fault::AgentFreeze
                | Fault::Switchover
                | Fault::Failback
                | Fault::PauseKill => true,
                Fault::AgentTerm => self.config.on_sigterm == ShutdownMode::HandOver,
                Fault::None
                | Fault::PgKill
                | Fault::AgentRestart
                | Fault::StoreOutage
                | Fault::StoreReplace => false,
            }
    }

    /// Brings the member back, where the fault left it away; returns how long that took.
    ///
    /// # Errors
    /// It does not follow.
    pub(super) async fn rejoin(
        &mut self,
        injected: Injected,
        outcome: Outcome,
    ) -> anyhow::Result<Option<Duration>> {
        let since = match (self.fault, injected.running) {
            (Fault::None | Fault::StoreOutage | Fault::StoreReplace, _) => return Ok(None),
            (_, Some(running)) => running,
            (Fault::AgentFreeze, None) => self.thaw(injected.member).await?,
            (
                Fault::NodeKill
                | Fault::PgKill
                | Fault::AgentKill
                | Fault::AgentRestart
                | Fault::AgentTerm
                | Fault::Switchover
                | Fault::Failback
                | Fault::PauseKill,
                None,
            ) => self.restart(injected.member).await?,
        };
        if let Some(back) = outcome.back {
            return Ok(Some(back.since(since)));
        }
        self.cluster.is_back(injected.member, REJOIN).await?;
        Ok(Some(now().since(since)))
    }

    /// Lets a stopped agent go on. It may find that its time is over, and end: then it is started.
    async fn thaw(&mut self, index: usize) -> anyhow::Result<Instant> {
        let since = now();
        self.cluster.members[index].signal(Signal::CONT)?;
        sleep(Duration::from_millis(200)).await;
        if self.cluster.members[index].ended().is_some() {
            self.cluster.members[index].start()?;
        }
        Ok(since)
    }
}
