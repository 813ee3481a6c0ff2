//! The core, or what it relies on, with one guard removed: at its boundary, so that the core that is
//! searched is the one that is shipped. Each names the invariant whose violation has to be found.

use harmony_agent::core::synchronous::SynchronousMode;

use super::setup::{Setup, hook};

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
    /// A commit is acknowledged when any one standby has it.
    AnyStandby,
    /// Writes are applied whatever they were decided on.
    BlindWrites,
    /// An action is answered for although it goes on.
    AnswersEarly,
    /// Neither the end of an epoch nor a cancellation is heard.
    EpochEndUnheard,
    /// A fence does not wait for the other action to end.
    FenceAlone,
    /// A lease that is not to be obeyed is handed in as the last good one.
    BadDataObeyed,
    /// What reads a lease that is not to be obeyed falls over.
    BadDataCrashes,
    /// Nobody hears of a pause.
    PauseIgnored,
    /// An order counts in whatever epoch it is read.
    OrderOfAnyEpoch,
    /// A failover by hand may lose whatever it takes.
    LossAccepted,
    /// Commits are said to wait for standbys, and do not.
    RequirementLies,
    /// A hook that failed is reported as one that ended well.
    HookUnheard,
    /// Nobody hears of the cluster's settings.
    SettingsUnheard,
    /// Reports name somebody else than the holder.
    ReportOfAnother,
    /// Reports are written over whatever is at their place, of which there is one.
    ReportOverLater,
    /// An agent takes itself for a member.
    AdmitsItself,
    /// A demotion is reported as done, with a token, and nothing is done.
    DemotionLies,
    /// A release without a token comes with the latest one there was, good for any timeline.
    TokenKept,
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
        (Self::AnyStandby, "synchronous_commits_survive"),
        (Self::BlindWrites, "stale_decisions_change_nothing"),
        (Self::AnswersEarly, "tasks_belong_to_their_epoch"),
        (Self::EpochEndUnheard, "tasks_belong_to_their_epoch"),
        (Self::FenceAlone, "tasks_belong_to_their_epoch"),
        (Self::BadDataObeyed, "bad_data_promotes_nobody"),
        (Self::BadDataCrashes, "never_panics"),
        (Self::FloorForgotten, "floors_only_grow"),
        (Self::PauseIgnored, "pause_is_kept"),
        (Self::OrderOfAnyEpoch, "orders_are_of_their_epoch"),
        (Self::LossAccepted, "failover_by_hand_loses_only_what_it_may"),
        (Self::RequirementLies, "named_members_have_every_commit"),
        (Self::RequirementLies, "strict_means_two_disks"),
        (Self::HookUnheard, "promotion_waits_for_hook"),
        (Self::SettingsUnheard, "lag_is_bounded"),
        (Self::ReportOfAnother, "journal_is_true_and_grows"),
        (Self::ReportOverLater, "journal_is_true_and_grows"),
        (Self::AdmitsItself, "takeover_is_admitted"),
        (Self::DemotionLies, "demoted_before_promoted"),
        (Self::TokenKept, "tokens_are_used_once"),
    ];

    /// The world of a seed with this guard removed, made so that the guard is needed in it.
    pub(crate) fn setup(self, seed: u64) -> Setup {
        let mut setup = Setup { mutant: Some(self), ..Setup::of(seed) };
        let bad_data = [Self::FloorForgotten, Self::BadDataObeyed, Self::BadDataCrashes];
        setup.store_loses |= bad_data.contains(&self);
        setup.synchronous |= self == Self::AnyStandby;
        if self == Self::RequirementLies {
            (setup.synchronous, setup.twin) = (false, false);
            setup.policy.synchronous = match seed % 2 {
                0 => SynchronousMode::On,
                _ => SynchronousMode::Strict,
            };
        }
        setup.policy.demotes |= [Self::DemotionLies, Self::TokenKept].contains(&self);
        setup.policy.promises |= self == Self::PromiseInvented;
        setup.twin |= self == Self::CopiedStateDir;
        if self == Self::HookUnheard {
            setup.policy.before_promote = Some(hook(setup.profile, true));
        }
        if self == Self::SettingsUnheard {
            // What a standby lacks soon lies between this and what is set.
            setup.policy.maximum_lag_on_failover = 256 << 10;
        }
        if [Self::LossAccepted, Self::SettingsUnheard].contains(&self) {
            // Nothing that keeps who lacks something from taking over.
            setup.synchronous = false;
            setup.policy.synchronous = SynchronousMode::Off;
            // Nobody else to take over from a primary that is gone.
            (setup.members, setup.twin, setup.late) = (2, false, false);
            setup.policy.before_promote = None;
            setup.store_loses = false;
        }
        setup
    }
}
