//! The kinds of fault there are.

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    // the agent and its watchdog
    FreezeAgent,
    /// It stands still right before it opens its database.
    Stumble,
    KillAgent,
    StopAgent,
    StopAgentLeaving,
    FreezeDog,
    KillDog,
    NoDog,
    FloorFails,
    SpuriousHint,
    Reconfigure,
    StartTwin,
    // the machine
    Suspend,
    PowerOff,
    /// A new machine is added to the cluster; at times with another cluster's data on it.
    Join,
    // the database
    /// All its processes end.
    CrashDb,
    /// Its postmaster ends; what it started takes a moment longer.
    KillDb,
    HangDb,
    /// It refuses the agent: `pg_hba.conf`, a password.
    LocksOut,
    /// It has no connection left for the agent.
    NoConnections,
    FillDisk,
    Stubborn,
    SlowStop,
    SlowStart,
    FailStart,
    SlowPromote,
    FailPromote,
    /// Its `before_promote` hook ends with a status other than 0.
    FailHook,
    /// Its `before_promote` hook does not end by itself.
    HangHook,
    /// Its demotion takes this long, whoever waits for it.
    SlowDemote,
    /// It does not let itself be demoted.
    FailDemote,
    /// Its demotion gives no token.
    LoseToken,
    /// It gives one for other data: of another system, or of another timeline.
    ForeignToken,
    /// A promotion with a token is refused.
    RefuseToken,
    Lag,
    // the network
    CutFromStore,
    CutToStore,
    CutAnswers,
    SlowStore,
    LateWrites,
    TwiceSent,
    /// Notices of change do not arrive.
    HintsLost,
    /// Notices of change arrive late, and again and again.
    HintsReplayed,
    StaleReads,
    /// The keys of a read are of different times: the cluster's description is from long ago.
    TornReads,
    CutPair,
    CutOneWay,
    // the store
    StoreDown,
    StoreClock,
    RollBack,
    Wipe,
    Damage,
    // a person, or what acts for one (`world::operator`)
    /// Another primary: the member named, anyone, or somebody unknown; at times not before a time.
    OrderSwitchover,
    /// The same in spite of a pause, at times whatever is lost.
    OrderFailover,
    /// The preferred member as the primary.
    OrderFailback,
    /// What would happen.
    Rehearse,
    /// The order that is open is taken back.
    Withdraw,
    /// No automatic transition, until it is over; at times it ends by itself.
    Pause,
    Resume,
    /// Settings of the whole cluster: other ones, or every member's own again.
    ChangeSettings,
    /// A member is not to take over, and hands over when it is the primary; or it may again.
    Drain,
    /// A member is taken out; at times although its agent runs.
    Remove,
}

/// A fault: of what kind, where, for how long (nanoseconds), and a number that means something to
/// some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) machine: usize,
    pub(crate) lasts: u64,
    pub(crate) detail: u64,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 62] = [
        Self::FreezeAgent,
        Self::Stumble,
        Self::KillAgent,
        Self::StopAgent,
        Self::StopAgentLeaving,
        Self::FreezeDog,
        Self::KillDog,
        Self::NoDog,
        Self::FloorFails,
        Self::SpuriousHint,
        Self::Reconfigure,
        Self::StartTwin,
        Self::Suspend,
        Self::PowerOff,
        Self::Join,
        Self::CrashDb,
        Self::KillDb,
        Self::HangDb,
        Self::LocksOut,
        Self::NoConnections,
        Self::FillDisk,
        Self::Stubborn,
        Self::SlowStop,
        Self::SlowStart,
        Self::FailStart,
        Self::SlowPromote,
        Self::FailPromote,
        Self::FailHook,
        Self::HangHook,
        Self::SlowDemote,
        Self::FailDemote,
        Self::LoseToken,
        Self::ForeignToken,
        Self::RefuseToken,
        Self::Lag,
        Self::CutFromStore,
        Self::CutToStore,
        Self::CutAnswers,
        Self::SlowStore,
        Self::LateWrites,
        Self::TwiceSent,
        Self::HintsLost,
        Self::HintsReplayed,
        Self::StaleReads,
        Self::TornReads,
        Self::CutPair,
        Self::CutOneWay,
        Self::StoreDown,
        Self::StoreClock,
        Self::RollBack,
        Self::Wipe,
        Self::Damage,
        Self::OrderSwitchover,
        Self::OrderFailover,
        Self::OrderFailback,
        Self::Rehearse,
        Self::Withdraw,
        Self::Pause,
        Self::Resume,
        Self::ChangeSettings,
        Self::Drain,
        Self::Remove,
    ];

    /// Those that a person is the cause of, the last of all.
    pub(crate) const OF_OPERATOR: usize = 10;

    /// A person is the cause of it.
    pub(crate) fn is_of_operator(self) -> bool {
        Self::ALL[Self::ALL.len() - Self::OF_OPERATOR..].contains(&self)
    }

    /// It befalls the store, or nobody's machine in particular.
    pub(crate) fn is_common(self) -> bool {
        matches!(
            self,
            Self::StoreDown
                | Self::StoreClock
                | Self::RollBack
                | Self::Wipe
                | Self::Damage
                | Self::StartTwin
                | Self::Join
                | Self::OrderFailback
                | Self::Withdraw
                | Self::Pause
                | Self::Resume
                | Self::ChangeSettings
        )
    }

    /// It is over as soon as it has happened.
    pub(crate) fn is_moment(self) -> bool {
        matches!(
            self,
            Self::SpuriousHint
                | Self::Join
                | Self::KillDog
                | Self::CrashDb
                | Self::KillDb
                | Self::StoreClock
                | Self::RollBack
                | Self::Wipe
                | Self::Damage
                | Self::OrderSwitchover
                | Self::OrderFailover
                | Self::OrderFailback
                | Self::Rehearse
                | Self::Withdraw
                | Self::Resume
                | Self::ChangeSettings
                | Self::Drain
                | Self::Remove
        )
    }
}
