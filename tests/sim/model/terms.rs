//! The terms of a search: where it begins, what may go wrong in it, how far it goes.

use std::fmt;

use harmony_agent::core::policy::{Policy, Reaction, WatchdogMode};
use harmony_agent::core::synchronous::SynchronousMode;

use super::fate::Fates;
use crate::sim::mutant::Mutant;
use crate::sim::rng::Pace;
use crate::sim::setup::{Profile, Setup, hook, policy};
use crate::sim::world::agent::nanos;
use crate::sim::world::fault::Kind;
use crate::sim::world::machine::{Clock, WORST_DRIFT};

/// What a world is given instead of chance.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) pace: Pace,
    /// Nanoseconds after which each member's agent is started.
    begins: Vec<u64>,
    /// The first member's clock runs as slowly as it may, the others' as fast.
    drift: bool,
}

/// All clocks show the same when the world begins.
const UPTIME: u64 = 5_000_000_000;

impl Terms {
    /// When the agent of a machine is started.
    pub(crate) fn begin(&self, m: usize) -> u64 {
        self.begins.get(m).copied().unwrap_or(0)
    }

    /// A machine's clock.
    pub(crate) fn clock(&self, m: usize) -> Clock {
        let worst = i64::try_from(WORST_DRIFT).unwrap_or(0);
        let ppm = match (self.drift, m) {
            (false, _) => 0,
            (true, 0) => -worst,
            (true, _) => worst,
        };
        Clock::new(0, UPTIME, ppm)
    }
}

/// Where a search begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) members: usize,
    /// With an empty store and no data, instead of a cluster that works.
    pub(crate) founding: bool,
    /// So many heartbeat intervals after it worked.
    pub(crate) later: u64,
    pub(crate) promises: bool,
    pub(crate) watchdog: WatchdogMode,
    /// Faults of the store that lose data are in.
    pub(crate) store_loses: bool,
    pub(crate) twin: bool,
    /// The last member is added while the search runs.
    pub(crate) late: bool,
    /// Commits wait for every other member's standby.
    pub(crate) synchronous: bool,
    /// Commits wait for whom the agents say.
    pub(crate) mode: SynchronousMode,
    /// The last member is preferred, and gets the lease back by itself after two heartbeat intervals.
    pub(crate) failback: bool,
    /// Promotions depend on a hook.
    pub(crate) hook: bool,
    /// Databases are demoted before a release, and promoted with a token.
    pub(crate) demotes: bool,
    /// By how many quarters of a heartbeat interval each member is started after the one before it.
    pub(crate) phases: &'static [u64],
    pub(crate) paces: &'static [Pace],
    pub(crate) drifts: &'static [bool],
}

/// The usual one: two members as they are configured by default.
pub(crate) const PLAIN: Start = Start {
    members: 2,
    founding: false,
    later: 0,
    promises: true,
    watchdog: WatchdogMode::Required,
    store_loses: false,
    twin: false,
    late: false,
    synchronous: false,
    mode: SynchronousMode::Off,
    failback: false,
    hook: false,
    demotes: false,
    phases: &[0],
    paces: &[Pace::Quick],
    drifts: &[true],
};

/// A bounded search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    /// Faults on one path, at most.
    pub(crate) faults: u8,
    pub(crate) kinds: &'static [Kind],
    /// How long a fault may last, in heartbeat intervals.
    pub(crate) lasts: &'static [u64],
    pub(crate) fates: Fates,
    /// Layers in a heartbeat interval: at each, a fault may begin.
    pub(crate) layers: u64,
    /// Heartbeat intervals within which the first fault begins, and from there to the horizon.
    pub(crate) first: u64,
    pub(crate) horizon: u64,
}

/// Beyond every horizon.
pub(crate) const EVER: u64 = 1_000;

/// A heartbeat interval, in nanoseconds.
pub(crate) fn unit(policy: &Policy) -> u64 {
    nanos(policy.heartbeat_interval)
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, start, faults, kinds, fates, layers, first, horizon, .. } = self;
        let roots = start.phases.len() * start.paces.len() * start.drifts.len();
        let lasts = self.lasts.iter().map(|lasts| match *lasts {
            EVER => "for ever".to_owned(),
            lasts => lasts.to_string(),
        });
        let lasts: Vec<_> = lasts.collect();
        write!(
            f,
            "{name}: {roots} roots; at most {faults} of {} kinds of faults for {} heartbeats, fates of \
             {fates:?} messages; {layers} layers a heartbeat, the first fault within {first}, {horizon} \
             after it",
            kinds.len(),
            lasts.join(", ")
        )
    }
}

impl Search {
    /// The worlds it begins with.
    pub(crate) fn setups(&self, mutant: Option<(Mutant, &'static str)>) -> Vec<Setup> {
        let mut setups = Vec::new();
        for phase in self.start.phases {
            for pace in self.start.paces {
                for drift in self.start.drifts {
                    setups.push(self.setup(*phase, *pace, *drift, mutant));
                }
            }
        }
        setups
    }

    fn setup(
        &self,
        phase: u64,
        pace: Pace,
        drift: bool,
        mutant: Option<(Mutant, &'static str)>,
    ) -> Setup {
        let start = &self.start;
        let mut policy = policy(Profile::Fast);
        policy.watchdog = start.watchdog;
        policy.promises = start.promises;
        policy.on_hung = Reaction::FailOver;
        policy.on_disk_full = Reaction::FailOver;
        // Two commits of the model's clients.
        policy.maximum_lag_on_failover = 128;
        policy.failback_after = start.failback.then(|| policy.heartbeat_interval * 2);
        policy.synchronous = start.mode;
        policy.demotes = start.demotes;
        policy.before_promote = start.hook.then(|| hook(Profile::Fast, true));
        let preferred = |m: usize| start.failback && m + 1 == start.members;
        let priority = |m: usize| if preferred(m) { 5 } else { 1 };
        let priorities = (0..start.members).map(priority).collect();
        let quarter = unit(&policy) / 4;
        let begins = (0..start.members as u64).map(|m| m * phase * quarter).collect();
        Setup {
            seed: 0,
            profile: Profile::Fast,
            members: start.members,
            twin: start.twin,
            late: start.late,
            synchronous: start.synchronous,
            policy,
            priorities,
            store_loses: start.store_loses,
            early: start.founding,
            mutant: mutant.map(|(mutant, _)| mutant),
            only: mutant.map(|(_, only)| only),
            terms: Some(Terms { pace, begins, drift }),
        }
    }
}
