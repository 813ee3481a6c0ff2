//! What a world is made of before anything happens: members, timings, whether a watchdog guards.

use std::time::Duration;

use harmony_agent::core::hook::BeforePromote;
use harmony_agent::core::policy::{Policy, Reaction, WatchdogMode};
use harmony_agent::core::synchronous::SynchronousMode;

use super::model::Terms;
use super::mutant::Mutant;
use super::rng::Rng;

/// A millisecond of true time, in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;

/// The timings a world runs with: the documented profiles (`docs/protocol.md`, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Profile {
    Fast,
    Standard,
    Wan,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) members: usize,
    /// One more machine, whose agent has the name of member 0.
    pub(crate) twin: bool,
    /// The last member is added while the cluster runs.
    pub(crate) late: bool,
    /// PostgreSQL acknowledges a commit when the standbys of all other members have flushed it:
    /// `synchronous_standby_names` with all of them, everywhere.
    pub(crate) synchronous: bool,
    pub(crate) policy: Policy,
    /// Preferences by machine, for those that have another one than the policy says.
    pub(crate) priorities: Vec<u8>,
    /// The store may lose data (rolled back, made anew, records damaged): what an operator has to
    /// mend is not expected to converge by itself.
    pub(crate) store_loses: bool,
    /// Chaos begins at once, not when the cluster is complete.
    pub(crate) early: bool,
    pub(crate) mutant: Option<Mutant>,
    /// Only this invariant counts.
    pub(crate) only: Option<&'static str>,
    /// Nothing is drawn: the world is one of the exhaustive search.
    pub(crate) terms: Option<Terms>,
}

impl Setup {
    /// The world of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5E7);
        let profile = match rng.below(10) {
            0..=5 => Profile::Standard,
            6..=8 => Profile::Fast,
            _ => Profile::Wan,
        };
        let mut policy = policy(profile);
        policy.watchdog = match rng.below(10) {
            0..=6 => WatchdogMode::Required,
            7..=8 => WatchdogMode::Automatic,
            _ => WatchdogMode::Off,
        };
        let reaction = |rng: &mut Rng| match rng.chance(50) {
            true => Reaction::FailOver,
            false => Reaction::Alert,
        };
        policy.on_hung = reaction(&mut rng);
        policy.on_disk_full = reaction(&mut rng);
        policy.maximum_lag_on_failover = [2 << 10, 64 << 10, 1 << 20][rng.index(3)];
        let members = if rng.chance(30) { 2 } else { 3 };
        let twin = rng.chance(12);
        let store_loses = rng.chance(25);
        let early = rng.chance(20);
        policy.promises = rng.chance(85);
        let late = rng.chance(20);
        // PostgreSQL knows standbys by name: two of one name count for each other.
        let synchronous = rng.chance(30) && !twin;
        let preferring = rng.chance(40);
        let drawn = |rng: &mut Rng| u8::try_from(rng.range(1, 3)).unwrap_or(1);
        let priorities = (0..members).map(|_| drawn(&mut rng)).filter(|_| preferring).collect();
        let failback = Duration::from_millis(rng.range(2_000, 30_000));
        let failback = if profile == Profile::Fast { failback / 10 } else { failback };
        policy.failback_after = (preferring && rng.chance(60)).then_some(failback);
        policy.synchronous = match rng.below(10) {
            0..=1 if !twin && !synchronous => SynchronousMode::On,
            2..=3 if !twin && !synchronous => SynchronousMode::Strict,
            _ => SynchronousMode::Off,
        };
        // Alone, a strict primary acknowledges nothing, and the cluster would not come up.
        let late = late && (members > 2 || policy.synchronous != SynchronousMode::Strict);
        policy.synchronous_standbys = if rng.chance(30) { 2 } else { 1 };
        // Drawn apart: the other worlds stay as they were.
        let mut hooks = Rng::new(seed ^ 0x4007);
        policy.before_promote = hooks.chance(20).then(|| hook(profile, hooks.chance(60)));
        Self {
            seed,
            profile,
            members,
            twin,
            late,
            synchronous,
            policy,
            priorities,
            store_loses,
            early,
            mutant: None,
            only: None,
            terms: None,
        }
    }

    /// The agents say for which standbys commits wait.
    pub(crate) fn is_managed(&self) -> bool {
        self.policy.synchronous != SynchronousMode::Off
    }

    /// Commits may have to wait for standbys.
    pub(crate) fn waits_for_standbys(&self) -> bool {
        self.synchronous || self.is_managed()
    }

    /// The settings of a machine's agent.
    pub(crate) fn policy_of(&self, m: usize) -> Policy {
        let priority = self.priorities.get(m).copied().unwrap_or(self.policy.priority);
        Policy { priority, ..self.policy.clone() }
    }

    /// Milliseconds of something that is quicker in a quicker profile, in nanoseconds.
    pub(crate) fn scaled(&self, milliseconds: u64) -> u64 {
        scaled(self.profile, milliseconds)
    }
}

fn scaled(profile: Profile, milliseconds: u64) -> u64 {
    let percent = match profile {
        Profile::Fast => 10,
        Profile::Standard => 100,
        Profile::Wan => 150,
    };
    milliseconds * MS * percent / 100
}

/// The hook that promotions wait for, in the worlds that have one.
pub(crate) fn hook(profile: Profile, required: bool) -> BeforePromote {
    BeforePromote { limit: Duration::from_nanos(scaled(profile, 8_000)), required }
}

/// The settings of a profile.
pub(crate) fn policy(profile: Profile) -> Policy {
    let column = match profile {
        Profile::Fast => 0,
        Profile::Standard => 1,
        Profile::Wan => 2,
    };
    let ms = |of: [u64; 3]| Duration::from_millis(of[column]);
    Policy {
        heartbeat_interval: ms([250, 1_000, 2_000]),
        heartbeat_timeout: ms([150, 1_500, 2_000]),
        failure_threshold: [2, 6, 7][column],
        fence_timeout: ms([300, 3_000, 5_000]),
        safety_margin: ms([100, 1_000, 3_000]),
        lease_duration: ms([1_000, 15_000, 25_000]),
        clock_drift_ppm: 10_000,
        takeover_step: ms([75, 500, 1_000]),
        maximum_lag_on_failover: 1 << 20,
        priority: 1,
        site: None,
        may_bootstrap: true,
        failback_after: None,
        synchronous: SynchronousMode::Off,
        synchronous_standbys: 1,
        cool_down: ms([5_000, 30_000, 60_000]),
        hand_over_timeout: ms([2_000, 10_000, 15_000]),
        stop_timeout: ms([10_000, 30_000, 60_000]),
        start_timeout: ms([30_000, 120_000, 300_000]),
        promote_timeout: ms([10_000, 60_000, 120_000]),
        before_promote: None,
        rejoin_timeout: ms([3_600_000, 21_600_000, 86_400_000]),
        promises: true,
        watchdog: WatchdogMode::Required,
        on_hung: Reaction::Alert,
        on_disk_full: Reaction::Alert,
        demotes: false,
        shutdown_timeout: ms([20_000, 60_000, 120_000]),
    }
}
