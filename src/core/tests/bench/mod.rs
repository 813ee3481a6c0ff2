//! One agent, a store as data, and the other end of every effect in the test's hands.

mod store;

use std::time::Duration;

use crate::core::agent::Agent;
use crate::core::event::{
    Action, ActionOutcome, Condition, Done, Effect, Event, FenceProof, Floor, Observation, Process,
    Reason, State, StoreWrite, WriteOutcome,
};
use crate::core::ids::{Epoch, Lsn, MemberId, OpId, Revision, SystemId, TimelineId};
use crate::core::order::Pause;
use crate::core::policy::{Policy, Reaction, WatchdogMode};
use crate::core::records::{Address, Key, Lease, Record, Snapshot};
use crate::core::shared::Identity;
use crate::core::time::Instant;
use crate::core::token::Token;

pub(super) use store::Store;

pub(super) const SYSTEM: SystemId = SystemId(7);

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

pub(super) fn address(name: &str) -> Address {
    Address { host: name.to_owned(), port: 5432, http: None }
}

pub(super) fn identity(name: &str, boot: u32) -> Identity {
    Identity {
        member: member(name),
        boot: format!("boot-{name}-{boot}").parse().unwrap(),
        instance: format!("instance-{name}").parse().unwrap(),
        address: address(name),
    }
}

pub(super) fn policy() -> Policy {
    Policy {
        heartbeat_interval: seconds(1),
        heartbeat_timeout: seconds(1),
        failure_threshold: 3,
        fence_timeout: seconds(4),
        safety_margin: seconds(1),
        lease_duration: seconds(15),
        clock_drift_ppm: 10_000,
        takeover_step: seconds(1),
        maximum_lag_on_failover: 1_000,
        priority: 1,
        site: None,
        failback_after: None,
        synchronous: crate::core::synchronous::SynchronousMode::Off,
        synchronous_standbys: 1,
        may_bootstrap: true,
        cool_down: seconds(60),
        hand_over_timeout: seconds(20),
        stop_timeout: seconds(30),
        start_timeout: seconds(60),
        promote_timeout: seconds(30),
        before_promote: None,
        rejoin_timeout: seconds(600),
        promises: true,
        watchdog: WatchdogMode::Off,
        on_hung: Reaction::FailOver,
        on_disk_full: Reaction::Alert,
        demotes: false,
        shutdown_timeout: seconds(50),
    }
}

pub(super) fn seen(process: Process) -> Observation {
    let condition = if process.is_running() { Condition::Ok } else { Condition::Stopped };
    let system = (process != Process::Absent).then_some(SYSTEM);
    Observation {
        process,
        condition,
        system,
        timeline: TimelineId(1),
        lsn: Lsn(5_000),
        replayed: Lsn(5_000),
        streaming: process == Process::RunningStandby,
        upstream: (process == Process::RunningStandby).then(|| ("b".to_owned(), 5432)),
        required: false,
        deputy_of: None,
        hindered: None,
        doubtful: None,
        standbys: match process {
            Process::RunningPrimary => ["b", "c"].map(|it| (it.to_owned(), Lsn(5_000))).into(),
            _ => Vec::new(),
        },
    }
}

pub(super) fn fenced() -> ActionOutcome {
    let (lsn, timeline) = (Lsn(5_000), TimelineId(1));
    ActionOutcome::Applied(Done::Fenced(FenceProof { clean: true, lsn, timeline, rung: "fast" }))
}

/// Proof of a stop that was not clean.
pub(super) fn fenced_by_kill() -> ActionOutcome {
    let (lsn, timeline) = (Lsn(5_000), TimelineId(1));
    ActionOutcome::Applied(Done::Fenced(FenceProof { clean: false, lsn, timeline, rung: "kill" }))
}

/// A pause without an end.
pub(super) fn pause(reason: &str) -> Pause {
    Pause { reason: reason.to_owned(), by: "somebody".to_owned(), until: None }
}

/// A token for the data of all these stories.
pub(super) fn token() -> Token {
    let value = "dG9rZW4=".parse().unwrap();
    Token { value, system: SYSTEM, timeline: TimelineId(1), lsn: Lsn(4_900) }
}

pub(super) fn done() -> ActionOutcome {
    ActionOutcome::Applied(Done::Done)
}

pub(super) fn unknown() -> WriteOutcome {
    WriteOutcome::Unknown { may_land: true, cause: "timeout".to_owned() }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) agent: Agent,
    pub(super) now: Instant,
    pub(super) store: Store,
    /// Everything asked for in the latest step.
    pub(super) effects: Vec<Effect>,
    /// Everything asked for and not answered yet.
    pub(super) open: Vec<Effect>,
}

impl Bench {
    /// Agent `a`, just started beside `store`.
    pub(super) fn start(store: Store) -> Self {
        Self::start_as(identity("a", 1), policy(), None, store)
    }

    pub(super) fn start_as(
        id: Identity,
        policy: Policy,
        floor: Option<Floor>,
        store: Store,
    ) -> Self {
        let now = Instant::from_millis(1_000_000);
        let agent = Agent::new(id, policy, floor, now);
        let mut bench = Self { agent, now, store, effects: Vec::new(), open: Vec::new() };
        bench.step(Event::Tick);
        bench
    }

    /// Agent `a`, whose lease (epoch 6, just applied) and database are well.
    pub(super) fn healthy() -> Self {
        Self::healthy_with(policy())
    }

    pub(super) fn healthy_with(policy: Policy) -> Self {
        let mut store = Store::new();
        let a = identity("a", 1);
        store.put_lease(&a, |_| {});
        store.put_cluster(&a, |_| {});
        let mut bench = Self::start_as(a, policy, None, store);
        bench.read();
        bench.observe(Process::RunningPrimary);
        bench.step(Event::Tick);
        bench.apply(&Key::Lease);
        bench.remember();
        assert_eq!(bench.agent.state(), State::PrimaryHealthy);
        bench
    }

    /// Agent `a`, following `b`, whose lease was just renewed.
    pub(super) fn watching() -> Self {
        Self::watching_with(policy(), |_| {})
    }

    pub(super) fn watching_with(policy: Policy, change: impl FnOnce(&mut Store)) -> Self {
        let mut store = Store::new();
        let b = identity("b", 1);
        store.put_lease(&b, |_| {});
        store.put_cluster(&b, |_| {});
        change(&mut store);
        let mut bench = Self::start_as(identity("a", 1), policy, None, store);
        bench.observe(Process::RunningStandby);
        bench.read();
        if bench.agent.state() != State::ReplicaWatching {
            bench.step(Event::Tick);
        }
        assert_eq!(bench.agent.state(), State::ReplicaWatching);
        bench.settle();
        bench
    }

    pub(super) fn step(&mut self, event: Event) -> &[Effect] {
        self.effects = self.agent.step(self.now, event);
        self.open.extend(self.effects.iter().cloned());
        &self.effects
    }

    pub(super) fn advance_ms(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
        self.store.clock += i64::try_from(milliseconds).unwrap() * 1_000_000;
        self.step(Event::Tick);
    }

    fn take<T>(&mut self, pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let at = self.open.iter().position(|effect| pick(effect).is_some())?;
        pick(&self.open.remove(at))
    }

    pub(super) fn reading(&mut self) -> Option<OpId> {
        self.take(|effect| match effect {
            Effect::Read(op, _) => Some(*op),
            _ => None,
        })
    }

    /// A successful read arrives, asked for by a hint when none was under way.
    pub(super) fn read(&mut self) {
        let snapshot = self.store.snapshot();
        self.read_as(Ok(snapshot));
    }

    pub(super) fn read_as(&mut self, answer: Result<Snapshot, crate::core::event::ReadFailure>) {
        let op = self.reading().unwrap_or_else(|| {
            self.step(Event::Changed);
            self.reading().expect("a read after a hint")
        });
        self.step(Event::Read(op, answer.clone()));
        // One that was begun before a refusal does not count: the next follows at once.
        if self.effects.iter().any(|effect| matches!(effect, Effect::Read(..))) {
            let op = self.reading().expect("just asked for");
            self.step(Event::Read(op, answer));
        }
    }

    pub(super) fn observe(&mut self, process: Process) {
        self.step(Event::Observed(seen(process)));
    }

    pub(super) fn writing(&mut self, key: &Key) -> Option<(OpId, StoreWrite)> {
        self.take(|effect| match effect {
            Effect::Write(op, write, _) if write.key == *key => Some((*op, write.clone())),
            _ => None,
        })
    }

    /// The open write to `key` reaches the store and is answered.
    pub(super) fn apply(&mut self, key: &Key) -> WriteOutcome {
        let (op, write) = self.writing(key).expect("a write under way");
        let id = self.agent.identity().clone();
        let outcome = self.store.write(&id, &write);
        self.step(Event::Written(op, outcome.clone()));
        outcome
    }

    /// The open write to `key` is answered without reaching the store.
    pub(super) fn answer(&mut self, key: &Key, outcome: WriteOutcome) -> StoreWrite {
        let (op, write) = self.writing(key).expect("a write under way");
        self.step(Event::Written(op, outcome));
        write
    }

    /// The action that was started last and not cancelled is answered.
    pub(super) fn acted(&mut self, outcome: ActionOutcome) {
        let op = self
            .take(|effect| match effect {
                Effect::Act(op, ..) => Some(*op),
                _ => None,
            })
            .expect("an action under way");
        self.step(Event::Acted(op, outcome));
    }

    pub(super) fn remember(&mut self) {
        while let Some(op) = self.take(|effect| match effect {
            Effect::Remember(op, _) => Some(*op),
            _ => None,
        }) {
            self.step(Event::Remembered(op, true));
        }
    }

    /// Answers what is open but does not matter to a story: heartbeats, floor, cluster description.
    pub(super) fn settle(&mut self) {
        self.remember();
        let own = Key::Heartbeat(self.agent.identity().member.clone());
        for key in [own, Key::ClusterState] {
            if self.open.iter().any(|e| matches!(e, Effect::Write(_, w, _) if w.key == key)) {
                self.apply(&key);
            }
        }
    }

    /// Time passes in steps of a second, with a working store and nothing else.
    pub(super) fn quiet_seconds(&mut self, count: u64) {
        for _ in 0..count {
            self.advance_ms(1_000);
            self.settle();
            self.read();
            self.settle();
        }
    }

    /// The actions asked for in the latest step.
    pub(super) fn actions(&self) -> Vec<Action> {
        self.effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Act(_, action, ..) => Some(action.clone()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn fences(&self) -> bool {
        self.actions().iter().any(|action| matches!(action, Action::Fence { .. }))
    }

    /// The lease written in the latest step.
    pub(super) fn lease_written(&self) -> Option<Lease> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Write(_, StoreWrite { record: Record::Lease(lease), .. }, _) => {
                Some(lease.clone())
            }
            _ => None,
        })
    }

    pub(super) fn became(&self) -> Option<(State, Reason)> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Became(transition) => Some((transition.to, transition.reason)),
            _ => None,
        })
    }

    pub(super) fn exits(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Exit(_)))
    }

    /// Nothing answers any more: the agent must not ask for ticks in a circle.
    pub(super) fn assert_no_storm(&self) {
        let mut bench = self.clone();
        let end = bench.now + seconds(120);
        let mut ticks = 0;
        while let Some(deadline) = bench.agent.deadline().filter(|deadline| deadline.at <= end) {
            bench.now = bench.now.max(deadline.at);
            bench.step(Event::Tick);
            ticks += 1;
            assert!(ticks < 400, "tick storm: {deadline:?} in {:?}", bench.agent.state());
        }
    }

    pub(super) fn floor(&self, epoch: u64, revision: u64) -> Floor {
        Floor {
            incarnation: self.store.incarnation.clone(),
            epoch: Epoch(epoch),
            revision: Revision(revision),
            system: Some(SYSTEM),
            bound: None,
        }
    }
}
