//! The bounds that are searched: in CI, with more time, and for the mutants.

use harmony_agent::core::policy::WatchdogMode;
use harmony_agent::core::synchronous::SynchronousMode;

use super::fate::Fates;
use super::terms::{EVER, PLAIN, Search, Start};
use crate::sim::mutant::Mutant;
use crate::sim::rng::Pace;
use crate::sim::world::fault::Kind;

/// What stops an agent, a database, a machine or a way, or gives it back.
const STOPS: &[Kind] = &[
    Kind::FreezeAgent,
    Kind::KillAgent,
    Kind::StopAgent,
    Kind::KillDog,
    Kind::FreezeDog,
    Kind::Suspend,
    Kind::PowerOff,
    Kind::KillDb,
    Kind::HangDb,
    Kind::Stubborn,
    Kind::FailPromote,
    Kind::Lag,
    Kind::CutFromStore,
    Kind::CutAnswers,
    Kind::StaleReads,
    Kind::CutPair,
    Kind::StoreDown,
];

/// What goes wrong by itself.
const ANY: &[Kind] = Kind::ALL.split_at(Kind::ALL.len() - Kind::OF_OPERATOR).0;
/// What a person does.
const ASKED: &[Kind] = Kind::ALL.split_at(Kind::ALL.len() - Kind::OF_OPERATOR).1;

/// What befalls a promotion that waits for its hook, and what leads to one.
const HOOKS_AND_STOPS: &[Kind] = &[
    Kind::FailHook,
    Kind::HangHook,
    Kind::FreezeAgent,
    Kind::KillAgent,
    Kind::StopAgent,
    Kind::PowerOff,
    Kind::KillDb,
    Kind::CutFromStore,
    Kind::CutAnswers,
    Kind::StoreDown,
];

/// A switchover of what is demoted, and what befalls it.
const DEMOTIONS_AND_STOPS: &[Kind] = &[
    Kind::OrderSwitchover,
    Kind::SlowDemote,
    Kind::FailDemote,
    Kind::LoseToken,
    Kind::ForeignToken,
    Kind::RefuseToken,
    Kind::FreezeAgent,
    Kind::KillAgent,
    Kind::StopAgent,
    Kind::PowerOff,
    Kind::KillDb,
    Kind::CutFromStore,
    Kind::CutAnswers,
    Kind::StoreDown,
];

/// What a person does, and what may come between.
const ASKED_AND_STOPS: &[Kind] = &[
    Kind::OrderSwitchover,
    Kind::OrderFailover,
    Kind::OrderFailback,
    Kind::Rehearse,
    Kind::Withdraw,
    Kind::Pause,
    Kind::Resume,
    Kind::KillAgent,
    Kind::PowerOff,
    Kind::KillDb,
    Kind::Lag,
    Kind::Stubborn,
    Kind::CutFromStore,
];

/// One fault of any kind, at every quarter of a heartbeat interval.
const ONE: Search = Search {
    name: "two members, one fault of any kind",
    start: PLAIN,
    faults: 1,
    kinds: ANY,
    lasts: &[1, 2, 6, EVER],
    fates: Fates::All,
    layers: 4,
    first: 1,
    horizon: 12,
};

const TWO: Search = Search {
    name: "two members, two faults",
    faults: 2,
    kinds: STOPS,
    lasts: &[2, 7],
    fates: Fates::Lease,
    layers: 1,
    ..ONE
};

const BOTH_PACES: &[Pace] = &[Pace::Quick, Pace::Slow];

/// What `./tests/run model` goes through.
pub(crate) const CI: &[Search] = &[
    Search { start: Start { phases: &[0, 1, 3], paces: BOTH_PACES, ..PLAIN }, ..ONE },
    Search {
        name: "two members whose clocks agree, one fault of any kind",
        start: Start { drifts: &[false], ..PLAIN },
        ..ONE
    },
    Search {
        name: "three members, one fault of any kind",
        start: Start { members: 3, phases: &[1], paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        ..ONE
    },
    Search {
        name: "two members without promises and watchdog, one fault of any kind",
        start: Start { promises: false, watchdog: WatchdogMode::Off, paces: BOTH_PACES, ..PLAIN },
        ..ONE
    },
    Search {
        name: "two members with an automatic watchdog, one fault of any kind",
        start: Start { watchdog: WatchdogMode::Automatic, paces: BOTH_PACES, ..PLAIN },
        ..ONE
    },
    Search {
        name: "two members, the store may lose data, one fault of any kind",
        start: Start { store_loses: true, paces: BOTH_PACES, ..PLAIN },
        ..ONE
    },
    Search {
        name: "two members and one that is added, one fault of any kind",
        start: Start { members: 3, late: true, paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        ..ONE
    },
    Search {
        name: "three members with synchronous commits, one fault of any kind",
        start: Start { members: 3, synchronous: true, paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        ..ONE
    },
    Search {
        name: "two members, strict synchronous commits, one fault of any kind",
        start: Start { mode: SynchronousMode::Strict, paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        ..ONE
    },
    Search {
        name: "two members and a namesake, one fault of any kind",
        start: Start { twin: true, paces: BOTH_PACES, ..PLAIN },
        ..ONE
    },
    Search {
        name: "two founders and a namesake beside an empty store, one fault of any kind",
        start: Start { founding: true, twin: true, paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        first: 4,
        ..ONE
    },
    Search {
        name: "two founders beside an empty store, one fault of any kind",
        start: Start { founding: true, phases: &[0, 1], paces: BOTH_PACES, ..PLAIN },
        layers: 2,
        first: 6,
        horizon: 8,
        ..ONE
    },
    Search {
        name: "three founders beside an empty store, one fault of any kind",
        start: Start { members: 3, founding: true, ..PLAIN },
        layers: 2,
        first: 4,
        horizon: 8,
        ..ONE
    },
    Search {
        name: "three members, a person asks for something once",
        start: Start { members: 3, paces: BOTH_PACES, ..PLAIN },
        kinds: ASKED,
        layers: 2,
        ..ONE
    },
    Search {
        name: "two members, a person asks for something, and one fault or another wish",
        kinds: ASKED_AND_STOPS,
        lasts: &[7],
        ..TWO
    },
    Search {
        name: "two members, everything slow, a person asks for something twice",
        start: Start { paces: &[Pace::Slow], ..PLAIN },
        kinds: ASKED,
        lasts: &[7],
        ..TWO
    },
    Search {
        name: "two members, one preferred, one fault",
        start: Start { failback: true, ..PLAIN },
        kinds: STOPS,
        layers: 2,
        ..ONE
    },
    Search {
        name: "two members, promotions depend on a hook, two faults",
        start: Start { hook: true, ..PLAIN },
        kinds: HOOKS_AND_STOPS,
        lasts: &[7],
        ..TWO
    },
    Search {
        name: "two members that are demoted, a switchover, and one fault or another",
        start: Start { demotes: true, later: 2, ..PLAIN },
        kinds: DEMOTIONS_AND_STOPS,
        lasts: &[7],
        ..TWO
    },
    TWO,
    Search {
        name: "three members, two faults",
        start: Start { members: 3, ..PLAIN },
        lasts: &[7],
        horizon: 10,
        ..TWO
    },
];

/// What `just model` goes through besides.
pub(crate) const MORE: &[Search] = &[
    Search {
        name: "three members, one fault of any kind, eighths of a heartbeat",
        start: Start { members: 3, phases: &[0, 1, 2, 3], paces: BOTH_PACES, ..PLAIN },
        layers: 8,
        ..ONE
    },
    Search { name: "two members, two faults of any kind", kinds: ANY, fates: Fates::All, ..TWO },
    Search { name: "two members, two faults, halves of a heartbeat", layers: 2, ..TWO },
    Search {
        name: "two members, everything slow, two faults",
        start: Start { paces: &[Pace::Slow], ..PLAIN },
        ..TWO
    },
    Search {
        name: "two members that may lose their store, two faults",
        start: Start { store_loses: true, ..PLAIN },
        kinds: &[
            Kind::RollBack,
            Kind::Wipe,
            Kind::Damage,
            Kind::FreezeAgent,
            Kind::KillAgent,
            Kind::PowerOff,
            Kind::CutFromStore,
            Kind::StoreDown,
        ],
        ..TWO
    },
    Search {
        name: "two members and a namesake, two faults",
        start: Start { twin: true, ..PLAIN },
        kinds: &[
            Kind::StartTwin,
            Kind::FreezeAgent,
            Kind::KillAgent,
            Kind::StopAgent,
            Kind::PowerOff,
            Kind::KillDb,
            Kind::CutFromStore,
        ],
        ..TWO
    },
    Search {
        name: "two founders beside an empty store, two faults",
        start: Start { founding: true, ..PLAIN },
        first: 3,
        horizon: 9,
        ..TWO
    },
    Search {
        name: "three members, a person asks for something, and one fault or another wish",
        start: Start { members: 3, ..PLAIN },
        kinds: ASKED_AND_STOPS,
        lasts: &[7],
        ..TWO
    },
    Search {
        name: "two members, promotions depend on a hook, two faults, farther",
        start: Start { hook: true, paces: BOTH_PACES, ..PLAIN },
        kinds: HOOKS_AND_STOPS,
        ..TWO
    },
    Search {
        name: "three members, two faults, farther",
        start: Start { members: 3, ..PLAIN },
        ..TWO
    },
];

/// A mutant, the invariant that it violates, and where that is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) mutant: Mutant,
    pub(crate) invariant: &'static str,
    pub(crate) search: Search,
}

/// Part of the bounds of CI: what is found in it is found there.
pub(crate) const SMALL: Search = Search { name: "small", lasts: &[6, EVER], layers: 2, ..ONE };
const FOUNDING: Search =
    Search { start: Start { founding: true, ..PLAIN }, lasts: &[6, EVER], first: 4, ..SMALL };
const TWIN: Search =
    Search { start: Start { founding: true, twin: true, paces: BOTH_PACES, ..PLAIN }, ..SMALL };
const FOUNDING_SLOW: Search = Search {
    start: Start { founding: true, paces: &[Pace::Slow], ..PLAIN },
    layers: 8,
    first: 4,
    ..SMALL
};
const SPOILT: Search =
    Search { start: Start { store_loses: true, paces: BOTH_PACES, ..PLAIN }, ..SMALL };
const SYNCHRONOUS: Search =
    Search { start: Start { members: 3, synchronous: true, paces: BOTH_PACES, ..PLAIN }, ..SMALL };
/// Commits wait for whom the agents say.
const MANAGED: Search =
    Search { start: Start { mode: SynchronousMode::Strict, paces: BOTH_PACES, ..PLAIN }, ..SMALL };
const ALONE: Search =
    Search { start: Start { promises: false, watchdog: WatchdogMode::Off, ..PLAIN }, ..SMALL };
/// Two faults: the store is lost, and somebody is started again.
const LOSES: Search = Search {
    start: Start { store_loses: true, paces: &[Pace::Slow], ..PLAIN },
    faults: 2,
    kinds: &[Kind::KillAgent, Kind::RollBack, Kind::Wipe, Kind::PowerOff],
    lasts: &[2],
    fates: Fates::None,
    layers: 1,
    ..ONE
};

/// A person asks for something, and something comes between.
const PERSON: Search =
    Search { kinds: ASKED_AND_STOPS, lasts: &[7], faults: 2, fates: Fates::None, layers: 1, ..ONE };
/// An order, and its epoch ends without it.
const RESTARTED: Search =
    Search { kinds: &[Kind::OrderSwitchover, Kind::KillAgent], lasts: &[2], ..PERSON };
/// A standby that lacks something is to be the primary.
const LAGGING: Search = Search {
    kinds: &[Kind::Lag, Kind::StopAgent, Kind::PowerOff, Kind::KillDb],
    lasts: &[7, EVER],
    ..PERSON
};
/// The same after a failover by hand: three faults.
const BY_HAND: Search = Search {
    kinds: &[Kind::Lag, Kind::PowerOff, Kind::OrderFailover],
    lasts: &[7],
    faults: 3,
    horizon: 10,
    ..PERSON
};

/// A hook fails, and something leads to a promotion.
const HOOKED: Search = Search {
    start: Start { hook: true, ..PLAIN },
    kinds: &[Kind::FailHook, Kind::HangHook, Kind::StopAgent, Kind::PowerOff, Kind::KillDb],
    lasts: &[7, EVER],
    ..PERSON
};

/// A switchover of what is demoted, asked for when its target has had its second word.
const DEMOTED: Search = Search {
    start: Start { demotes: true, later: 2, ..PLAIN },
    kinds: &[Kind::OrderSwitchover],
    faults: 1,
    ..PERSON
};
/// Two of them, the second of which is released without a token.
const DEMOTED_TWICE: Search = Search {
    kinds: &[Kind::OrderSwitchover, Kind::LoseToken, Kind::StopAgent],
    faults: 2,
    ..DEMOTED
};

const fn claim(mutant: Mutant, invariant: &'static str, search: Search) -> Claim {
    Claim { mutant, invariant, search }
}

/// What has to be found.
pub(crate) const CLAIMS: &[Claim] = &[
    claim(Mutant::ImpatientCandidate, "takeover_waits", SMALL),
    claim(Mutant::ImpatientCandidate, "one_writer", SMALL),
    claim(Mutant::ImpatientCandidate, "fenced_before_takeover", SMALL),
    claim(Mutant::ClockTooSlow, "lease_covers_writes", SMALL),
    claim(Mutant::TimeoutIsSuccess, "lease_before_opening", FOUNDING),
    claim(Mutant::FenceLies, "released_is_fenced", SMALL),
    claim(Mutant::LagHidden, "clean_hand_over_loses_nothing", LAGGING),
    claim(Mutant::DogAsleep, "lease_covers_writes", SMALL),
    claim(Mutant::DogInvented, "guarded_before_opening", SMALL),
    claim(Mutant::FloorUnwritten, "floor_before_promotion", SMALL),
    claim(Mutant::FloorForgotten, "lost_store_not_obeyed", LOSES),
    claim(Mutant::EpochReused, "epoch_grows", SMALL),
    claim(Mutant::CopiedStateDir, "one_name_one_holder", TWIN),
    claim(Mutant::LagHidden, "lag_is_bounded", LAGGING),
    claim(Mutant::NoLastLook, "lease_before_opening", FOUNDING),
    claim(Mutant::RenewsWhileFencing, "no_renewal_while_fencing", SMALL),
    claim(Mutant::WrongReason, "transitions_as_documented", SMALL),
    claim(Mutant::SaidTwice, "one_transition_a_step", SMALL),
    claim(Mutant::SameTimeline, "histories_agree", ALONE),
    claim(Mutant::Circle, "no_circles", SMALL),
    claim(Mutant::PromiseInvented, "one_writer", SMALL),
    claim(Mutant::PromiseInvented, "lease_covers_writes", SMALL),
    claim(Mutant::AnyStandby, "synchronous_commits_survive", SYNCHRONOUS),
    claim(Mutant::RequirementLies, "named_members_have_every_commit", MANAGED),
    claim(Mutant::RequirementLies, "strict_means_two_disks", MANAGED),
    claim(Mutant::BlindWrites, "stale_decisions_change_nothing", SMALL),
    claim(Mutant::EpochEndUnheard, "tasks_belong_to_their_epoch", FOUNDING_SLOW),
    claim(Mutant::FenceAlone, "tasks_belong_to_their_epoch", FOUNDING_SLOW),
    claim(Mutant::BadDataObeyed, "bad_data_promotes_nobody", SPOILT),
    claim(Mutant::BadDataCrashes, "never_panics", SPOILT),
    claim(Mutant::FloorForgotten, "floors_only_grow", LOSES),
    claim(Mutant::PauseIgnored, "pause_is_kept", PERSON),
    claim(Mutant::OrderOfAnyEpoch, "orders_are_of_their_epoch", RESTARTED),
    claim(Mutant::HookUnheard, "promotion_waits_for_hook", HOOKED),
    claim(Mutant::LossAccepted, "failover_by_hand_loses_only_what_it_may", BY_HAND),
    claim(Mutant::DemotionLies, "demoted_before_promoted", DEMOTED),
    claim(Mutant::TokenKept, "tokens_are_used_once", DEMOTED_TWICE),
];

/// What is not, and why.
pub(crate) const BEYOND: &[(Mutant, &str, &str)] = &[
    (
        Mutant::SettingsUnheard,
        "lag_is_bounded",
        "a lag between what is set and what a member is configured with takes three faults within less \
         than a heartbeat of each other",
    ),
    (
        Mutant::ReportOfAnother,
        "journal_is_true_and_grows",
        "no core reads the journal: the search has none",
    ),
    (
        Mutant::ReportOverLater,
        "journal_is_true_and_grows",
        "no core reads the journal: the search has none",
    ),
    (Mutant::AnswerLost, "converges", "that something happens at last is no question of safety"),
    (
        Mutant::AnswersEarly,
        "tasks_belong_to_their_epoch",
        "the next action has to begin while one that was given up goes on: not within these times",
    ),
    (
        Mutant::AdmitsItself,
        "takeover_is_admitted",
        "a removal, a renewal after it and then a dead primary take longer than these times",
    ),
];
