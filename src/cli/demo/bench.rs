//! One run: clients write, a fault is injected, and what they saw is measured.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::time::sleep;

use super::client::{Clients, rows};
use super::cluster::{Cluster, REJOIN};
use super::fault::Fault;
use super::ledger::{Ack, SharedLedger};
use super::phases::phases;
use super::report::{Milliseconds, Phases, Run};
use super::usage::Usage;
use crate::config::Config;
use crate::core::event::ShutdownMode;
use crate::core::order::{Order, Wish};
use crate::core::records::{ClusterState, Snapshot};
use crate::core::time::Instant;
use crate::operator::Operator;
use crate::postmaster::now;

/// Time between two looks while something is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// How long clients write before the fault; an agent's processor time is measured here.
const STEADY: Duration = Duration::from_secs(2);
/// How long clients write after the service is back before the gap is taken.
const AFTER: Duration = Duration::from_secs(1);
/// Commits of the following client in this time mean that it is served.
const SERVED: (Duration, usize) = (Duration::from_millis(500), 10);
/// A client still with the old primary so long after somebody took over will not move by itself.
const ASTRAY: Duration = Duration::from_secs(2);
/// Beyond lease and margin, how long the service may be away before the demo gives up.
const AWAY: Duration = Duration::from_secs(60);
/// Clients go on for so long when every member follows again: a late acknowledgement would show.
const LATE: Duration = Duration::from_millis(300);

/// Runs faults against a cluster.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    cluster: &'a mut Cluster,
    fault: Fault,
    config: &'a Config,
    used: Vec<Used>,
}

/// What the agent of one member used while nothing happened.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    rss_kib: u64,
    cpu: Duration,
    time: Duration,
}

/// What was done, to whom, and when.
#[derive(Clone, Copy, Debug)]
struct Injected {
    member: usize,
    at: Instant,
    /// Since when the member's agent is running (again), when that was at once.
    running: Option<Instant>,
}

/// How the cluster took it.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// The client's first commit on another member.
    failover: Option<Ack>,
    /// When the member did its part again, when it did already.
    back: Option<Instant>,
    /// End of the window in which the gap is looked for.
    end: Instant,
}

impl<'a> Bench<'a> {
    /// For `cluster`, whose members run with `config`.
    pub(super) fn new(cluster: &'a mut Cluster, fault: Fault, config: &'a Config) -> Self {
        let used = vec![Used::default(); cluster.members.len()];
        Self { cluster, fault, config, used }
    }

    /// Resident memory of the largest agent in KiB, and the busiest one's share of a core in percent.
    pub(super) fn usage(&self) -> (u64, f64) {
        let rss = self.used.iter().map(|used| used.rss_kib).max().unwrap_or(0);
        let share = |used: &Used| used.cpu.as_secs_f64() / used.time.as_secs_f64().max(0.001);
        (rss, self.used.iter().map(share).fold(0.0, f64::max) * 100.0)
    }

    /// Run `number`.
    ///
    /// # Errors
    /// The cluster did not take the fault as it should have, with what could be seen.
    pub(super) async fn run(&mut self, number: i32) -> anyhow::Result<Run> {
        self.cluster.all_follow(REJOIN).await?;
        let ledger = SharedLedger::default();
        let clients = Clients::start(self.cluster.hosts(), number, &ledger)?;
        self.cluster.board.begin(&ledger);
        self.served(&ledger).await?;
        self.measure_usage().await;

        let primary = self.cluster.all_follow(REJOIN).await?;
        let marks = self.log_lengths();
        let injected = self.inject(primary).await?;
        let outcome = self.watch(&ledger, injected).await?;
        let gap = ledger.lock().longest_gap(injected.at, outcome.end);
        let phases = self.phases(&marks, injected, outcome)?;
        let gap_ms = Milliseconds::of(gap);
        self.cluster.board.say(format!("run {number}: longest gap {gap_ms} ms"));

        let rejoin = self.rejoin(injected, outcome).await?;
        let primary = self.cluster.all_follow(REJOIN).await?;
        sleep(LATE).await;
        clients.stop()?;
        let kept = rows(&self.cluster.members[primary].host(), number).await?;
        let ledger = ledger.lock();
        let (lost_acked, alternations) = (ledger.lost(&kept), ledger.alternations());
        Ok(Run {
            gap_ms,
            lost_acked,
            alternations,
            phases_ms: phases,
            rejoin_ms: rejoin.map(Milliseconds::of),
        })
    }

    async fn served(&self, ledger: &SharedLedger) -> anyhow::Result<()> {
        let end = now() + AWAY;
        while !is_served(ledger) {
            if now() > end {
                let said = self.cluster.ask().await;
                bail!("the client is not served after {AWAY:?}\n{}", self.cluster.account(&said));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn measure_usage(&mut self) {
        let usage = |cluster: &Cluster| {
            let of = |member: &super::member::Member| member.agent_pid().and_then(Usage::of);
            cluster.members.iter().map(of).collect::<Vec<_>>()
        };
        let (before, since) = (usage(self.cluster), now());
        // Faults must meet the agents at any point of their intervals.
        let interval = u64::try_from(self.config.policy.heartbeat_interval.as_nanos()).unwrap_or(0);
        let odd =
            Duration::from_nanos(since.as_nanos().wrapping_mul(0x9E37_79B9) % interval.max(1));
        sleep(STEADY + odd).await;
        let (after, time) = (usage(self.cluster), now().since(since));
        for ((used, before), after) in self.used.iter_mut().zip(before).zip(after) {
            let (Some(before), Some(after)) = (before, after) else { continue };
            used.rss_kib = used.rss_kib.max(after.rss_kib);
            used.cpu += after.cpu.saturating_sub(before.cpu);
            used.time += time;
        }
    }

    fn log_lengths(&self) -> Vec<usize> {
        let length = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let lengths = self.cluster.members.iter().map(|member| length(member.log()));
        lengths.map(|length| usize::try_from(length).unwrap_or(usize::MAX)).collect()
    }

    async fn inject(&mut self, index: usize) -> anyhow::Result<Injected> {
        let (fault, name) = (self.fault, self.cluster.members[index].name.clone());
        let at = match fault {
            Fault::Switchover => self.switch().await?,
            Fault::None
            | Fault::NodeKill
            | Fault::PgKill
            | Fault::AgentKill
            | Fault::AgentFreeze
            | Fault::AgentRestart
            | Fault::AgentTerm => fault.inject(&self.cluster.members[index])?,
        };
        self.cluster.board.say(format!("{} of the primary {name}", fault.name()));
        let running = match fault {
            Fault::None | Fault::NodeKill | Fault::AgentKill | Fault::AgentFreeze => None,
            // Its agent goes on, and is done when it follows.
            Fault::PgKill | Fault::Switchover => Some(at),
            Fault::AgentRestart => Some(self.restart(index).await?),
            Fault::AgentTerm => match self.config.on_sigterm {
                ShutdownMode::LeaveRunning => Some(self.restart(index).await?),
                ShutdownMode::HandOver => None,
            },
        };
        Ok(Injected { member: index, at, running })
    }

    /// Asks for another primary; returns the moment right before.
    async fn switch(&self) -> anyhow::Result<Instant> {
        let mut operator = Operator::open(self.config).await?;
        let lease = operator.read().await?.lease.record().cloned().context("no lease")?;
        let order = Order {
            id: uuid::Uuid::new_v4().to_string(),
            wish: Wish::Switchover,
            epoch: lease.epoch,
            to: None,
            by: "the demo".to_owned(),
            not_before: None,
            rehearsal: false,
        };
        let at = now();
        let give = |_: &Snapshot, cluster: ClusterState| {
            Ok(Some(ClusterState { order: Some(order.clone()), ..cluster }))
        };
        operator.change(give).await?;
        Ok(at)
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
    async fn watch(&self, ledger: &SharedLedger, injected: Injected) -> anyhow::Result<Outcome> {
        let policy = &self.config.policy;
        let lease = policy.failover_timeout(policy.lease_duration);
        let (quiet, limit) = (injected.at + lease + AFTER, injected.at + lease + AWAY);
        let mut back = None;
        loop {
            let failover = ledger.lock().first_after_failover(injected.at);
            let taken_over = ledger.lock().first_taken_over(injected.at);
            if back.is_none() {
                back = self.back(injected, failover.is_some()).await;
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
    async fn back(&self, injected: Injected, failed_over: bool) -> Option<Instant> {
        injected.running?;
        let said = self.cluster.members[injected.member].ask().await?;
        // Right after PostgreSQL's death its agent may still say that it leads.
        let leads = said.leads() && !matches!(self.fault, Fault::PgKill | Fault::Switchover);
        (leads || (failed_over && said.follows())).then(now)
    }

    fn must_fail_over(&self) -> bool {
        self.cluster.members.len() > 1
            && match self.fault {
                Fault::NodeKill | Fault::AgentKill | Fault::AgentFreeze | Fault::Switchover => true,
                Fault::AgentTerm => self.config.on_sigterm == ShutdownMode::HandOver,
                Fault::None | Fault::PgKill | Fault::AgentRestart => false,
            }
    }

    fn phases(
        &self,
        marks: &[usize],
        injected: Injected,
        outcome: Outcome,
    ) -> anyhow::Result<Phases> {
        let Some(first) = outcome.failover else { return Ok(Phases::default()) };
        let path = self.cluster.members[first.member].log();
        let log = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let new = log.get(marks[first.member]..).unwrap_or_default();
        Ok(phases(&String::from_utf8_lossy(new), injected.at, first.at))
    }

    /// Brings the member back, where the fault left it away; returns how long that took.
    async fn rejoin(
        &mut self,
        injected: Injected,
        outcome: Outcome,
    ) -> anyhow::Result<Option<Duration>> {
        let since = match (self.fault, injected.running) {
            (Fault::None, _) => return Ok(None),
            (_, Some(running)) => running,
            (Fault::AgentFreeze, None) => self.thaw(injected.member).await?,
            (
                Fault::NodeKill
                | Fault::PgKill
                | Fault::AgentKill
                | Fault::AgentRestart
                | Fault::AgentTerm
                | Fault::Switchover,
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

fn is_served(ledger: &SharedLedger) -> bool {
    let (time, commits) = SERVED;
    ledger.lock().count_since(now() - time) >= commits
}
