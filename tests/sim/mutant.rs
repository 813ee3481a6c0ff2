//! The core, or what it relies on, with one guard removed: at its boundary, so that the core that is
//! searched is the one that is shipped. Each names the invariant whose violation has to be found.

use super::setup::Setup;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Candidates wait for a third of the published lease.
    ImpatientCandidate,
    /// The clock of one machine loses three tenths of the time.
    ClockTooSlow,
    /// A write without an answer counts as applied.
    TimeoutIsSuccess,
    /// A fence is reported as proven, and nothing is done.
    FenceLies,
    /// The watchdog is armed and does not fire.
    DogAsleep,
    /// The watchdog counts as armed as soon as it is told to be.
    DogInvented,
    /// `floor.json` is reported as written, and is not.
    FloorUnwritten,
    /// A restarted agent knows nothing of its floor.
    FloorForgotten,
    /// An acquisition does not count the epoch up.
    EpochReused,
    /// Two state directories have one instance id.
    CopiedStateDir,
    /// Standbys say that they have much more than they do.
    LagHidden,
    /// The right to write is not looked at again right before the act.
    NoLastLook,
    /// The lease is renewed while the database is being fenced.
    RenewsWhileFencing,
    /// A transition is reported with a reason that is none of it.
    WrongReason,
    /// A transition is reported twice.
    SaidTwice,
    /// A promotion does not begin a new timeline.
    SameTimeline,
    /// A rejoin is never answered.
    AnswerLost,
    /// The deadline is always now.
    Circle,
    /// Promises arrive that nobody gave.
    PromiseInvented,
}

impl Mutant {
    /// Every mutant with an invariant that has to be violated; more than one line for some.
    pub(crate) const ALL: &[(Self, &'static str)] = &[
        (Self::ImpatientCandidate, "takeover_waits"),
        (Self::ImpatientCandidate, "one_writer"),
        (Self::ImpatientCandidate, "fenced_before_takeover"),
        (Self::ClockTooSlow, "lease_covers_writes"),
        (Self::TimeoutIsSuccess, "lease_before_opening"),
        (Self::FenceLies, "released_is_fenced"),
        (Self::LagHidden, "clean_hand_over_loses_nothing"),
        (Self::DogAsleep, "lease_covers_writes"),
        (Self::DogInvented, "guarded_before_opening"),
        (Self::FloorUnwritten, "floor_before_promotion"),
        (Self::FloorForgotten, "lost_store_not_obeyed"),
        (Self::EpochReused, "epoch_grows"),
        (Self::CopiedStateDir, "one_name_one_holder"),
        (Self::LagHidden, "lag_is_bounded"),
        (Self::NoLastLook, "lease_before_opening"),
        (Self::RenewsWhileFencing, "no_renewal_while_fencing"),
        (Self::WrongReason, "transitions_as_documented"),
        (Self::SaidTwice, "one_transition_a_step"),
        (Self::SameTimeline, "histories_agree"),
        (Self::AnswerLost, "converges"),
        (Self::Circle, "no_circles"),
        (Self::PromiseInvented, "one_writer"),
        (Self::PromiseInvented, "lease_covers_writes"),
    ];

    /// The world of a seed with this guard removed, made so that the guard is needed in it.
    pub(crate) fn setup(self, seed: u64) -> Setup {
        let mut setup = Setup { mutant: Some(self), ..Setup::of(seed) };
        setup.store_loses |= self == Self::FloorForgotten;
        setup.policy.promises |= self == Self::PromiseInvented;
        setup.twin |= self == Self::CopiedStateDir;
        setup
    }
}
