//! One run: clients write, a fault is injected, and what they saw is measured.

mod pause_kill;
mod store;
mod strike;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::sleep;

use super::client::{Clients, rows};
use super::cluster::{Cluster, REJOIN};
use super::facts::{Broken, Facts};
use super::fault::Fault;
use super::ledger::SharedLedger;
use super::member::PREFERRED;
use super::phases::phases;
use super::report::{Milliseconds, Phases, Run};
use super::usage::Usage;
use crate::config::Config;
use crate::core::event::State;
use crate::core::time::Instant;
use crate::postmaster::now;
use strike::{Injected, Outcome};

/// Time between two looks while something is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// How long clients write before the fault; an agent's processor time is measured here.
const STEADY: Duration = Duration::from_secs(2);
/// How long clients write after the service is back before the gap is taken.
const AFTER: Duration = Duration::from_secs(1);
/// Commits of the following client in this time mean that it is served.
const SERVED: (Duration, usize) = (Duration::from_millis(500), 10);
/// Beyond lease and margin, how long the service may be away before the demo gives up.
const AWAY: Duration = Duration::from_secs(60);
/// What is not to happen for a while is waited for that many times as long as a takeover waits.
const FOR_SURE: u32 = 3;
/// Time between two looks for something that is not to happen.
const GLANCE: Duration = Duration::from_millis(50);
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

/// How the cluster took a fault.
#[derive(Clone, Debug)]
struct Taken {
    /// The client's longest time without a commit.
    gap: Duration,
    phases: Phases,
    /// From bringing a member back until it did its part again.
    rejoin: Option<Duration>,
    /// What else there is to say.
    facts: Option<Facts>,
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
        if self.fault == Fault::Failback {
            self.send_away().await?;
        }
        let ledger = SharedLedger::default();
        let clients = Clients::start(self.cluster.hosts(), number, &ledger)?;
        self.cluster.board.begin(&ledger);
        self.served(&ledger).await?;
        self.measure_usage().await;

        let primary = self.cluster.all_follow(REJOIN).await?;
        let taken = match self.fault {
            Fault::PauseKill => self.pause_kill(&ledger, primary).await?,
            Fault::StoreOutage => self.store_outage(&ledger, primary).await?,
            Fault::StoreReplace => self.store_replace(&ledger, primary).await?,
            Fault::None
            | Fault::NodeKill
            | Fault::PgKill
            | Fault::AgentKill
            | Fault::AgentFreeze
            | Fault::AgentRestart
            | Fault::AgentTerm
            | Fault::Switchover
            | Fault::Failback => self.strike(&ledger, primary).await?,
        };
        let primary = self.cluster.all_follow(REJOIN).await?;
        sleep(LATE).await;
        clients.stop()?;
        let kept = rows(&self.cluster.members[primary].host(), number).await?;
        let ledger = ledger.lock();
        let run = Run {
            gap_ms: Milliseconds::of(taken.gap),
            lost_acked: ledger.lost(&kept),
            alternations: ledger.alternations(),
            phases_ms: taken.phases,
            rejoin_ms: taken.rejoin.map(Milliseconds::of),
            leads: self.cluster.members[primary].name.clone(),
            facts: taken.facts,
        };
        if self.fault == Fault::Failback {
            run.check_failback(PREFERRED)?;
        }
        Ok(run)
    }

    /// The client's longest gap from `since` to `end`, which is said.
    fn gap(&self, ledger: &SharedLedger, since: Instant, end: Instant) -> Duration {
        let gap = ledger.lock().longest_gap(since, end);
        self.cluster.board.say(format!("longest gap {} ms", Milliseconds::of(gap)));
        gap
    }

    /// Long enough to see that nobody takes over.
    fn long_enough(&self) -> Duration {
        let policy = &self.config.policy;
        policy.failover_timeout(policy.lease_duration) * FOR_SURE
    }

    /// Watches for `time` from `since` on that nobody begins to lead beside the member at `primary`.
    ///
    /// # Errors
    /// [`Broken`]: somebody does, `meanwhile`.
    async fn nobody_takes_over(
        &self,
        ledger: &SharedLedger,
        primary: usize,
        (since, time): (Instant, Duration),
        meanwhile: &str,
    ) -> anyhow::Result<()> {
        loop {
            let said = self.cluster.ask().await;
            let is_other = |index: usize| index != primary;
            let begins = said.iter().enumerate().find_map(|(index, said)| {
                let said = said.as_ref().filter(|_| is_other(index))?;
                (said.is_primary || said.state == State::ReplicaPromoting).then_some(index)
            });
            let committed = ledger.lock().first_taken_over(since).map(|ack| ack.member);
            if let Some(index) = begins.or(committed) {
                let (name, after) = (&self.cluster.members[index].name, now().since(since));
                return Err(
                    Broken(format!("{name} took over {meanwhile}, after {after:.1?}")).into()
                );
            }
            if now() > since + time {
                return Ok(());
            }
            sleep(GLANCE).await;
        }
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
}

fn is_served(ledger: &SharedLedger) -> bool {
    let (time, commits) = SERVED;
    ledger.lock().count_since(now() - time) >= commits
}
