//! Why things happen: every transition and alarm names one of these.

use serde::{Deserialize, Serialize};

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $type { $($(#[$vdoc])* $variant,)* }

        impl $type {
            /// Stable name for logs, metric labels and records.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named!(
    /// Why a transition happened.
    Reason {
        /// The agent started beside a database that is, or was, a primary.
        StartedBesidePrimary = "started_beside_primary",
        /// Our renewal or acquisition was applied.
        LeaseApplied = "lease_applied",
        /// A renewal was refused: somebody else wrote the lease.
        LeaseTaken = "lease_taken",
        /// Renewals failed too often in a row.
        RenewalsFailed = "renewals_failed",
        /// The lease ran towards its end without an applied renewal.
        LeaseExpiring = "lease_expiring",
        /// The clock was found past the end of the lease (suspend, freeze, starvation).
        LeaseExpired = "lease_expired",
        /// The postmaster ended by itself.
        DatabaseDied = "database_died",
        /// The database hangs and the policy says to fail over.
        DatabaseHung = "database_hung",
        /// The database's disk is full and the policy says to fail over.
        DatabaseDiskFull = "database_disk_full",
        /// The database turned out not to be a writable primary.
        DatabaseNotPrimary = "database_not_primary",
        /// Fencing is proven.
        FenceConfirmed = "fence_confirmed",
        /// The lease is ours and the database may be opened again.
        LeaseKept = "lease_kept",
        /// The lease goes to another member.
        HandOver = "hand_over",
        /// A person wants another primary.
        Switchover = "switchover",
        /// The member that is preferred over this one is fit again.
        Failback = "failback",
        /// The member that was to take over cannot, or is not wanted any more.
        CalledOff = "called_off",
        /// Another member holds the lease.
        Deposed = "deposed",
        /// Nobody took the lease we handed over.
        TakenBack = "taken_back",
        /// The database follows as a standby.
        Following = "following",
        /// The holder of the lease changed, or our upstream is not the holder.
        UpstreamChanged = "upstream_changed",
        /// The database is down, or unfit to follow.
        DatabaseUnfit = "database_unfit",
        /// Our own heartbeats fail.
        HeartbeatsFailed = "heartbeats_failed",
        /// Heartbeats and database are well again.
        Recovered = "recovered",
        /// The holder released the lease.
        LeaseReleased = "lease_released",
        /// The holder gave no sign for the lease duration and margin.
        HolderSilent = "holder_silent",
        /// No lease has ever been written: the cluster is new.
        ClusterNew = "cluster_new",
        /// Promotion is complete and the database writable.
        Promoted = "promoted",
        /// Promotion failed or took too long.
        PromotionFailed = "promotion_failed",
        /// The `before_promote` hook that the promotion depends on did not end well.
        HookRefused = "hook_refused",
        /// The lease was lost while promoting.
        LeaseLost = "lease_lost",
        /// The watchdog is required and not there.
        WatchdogMissing = "watchdog_missing",
        /// The agent was told to stop.
        Shutdown = "shutdown",
        /// The database runs as a primary without our lease.
        StrayPrimary = "stray_primary",
        /// The database could not be started in time.
        StartFailed = "start_failed",
    }
);

named!(
    /// Something a person should look at; raised once per onset.
    Alarm {
        /// A fencing step failed; the next one runs.
        FenceStepFailed = "fence_step_failed",
        /// The store shows less than we know, or is another one.
        StoreNotObeyed = "store_not_obeyed",
        /// A record in the store cannot be read.
        RecordInvalid = "record_invalid",
        /// The store lets us not in, or is full.
        StoreRejects = "store_rejects",
        /// The store does not answer, and only the other members' promises keep the primary open.
        HeldByPromises = "held_by_promises",
        /// The watchdog is down.
        WatchdogDown = "watchdog_down",
        /// The database hangs.
        DatabaseHung = "database_hung",
        /// The database's disk is full.
        DatabaseDiskFull = "database_disk_full",
        /// The database has no connection left for us.
        ConnectionsExhausted = "connections_exhausted",
        /// The database does not let us in.
        DatabaseDenied = "database_denied",
        /// The database cannot be run as it is.
        DatabaseBroken = "database_broken",
        /// Data of another cluster lies in our data directory.
        ForeignData = "foreign_data",
        /// The database could not be made a standby of the primary.
        RejoinFailed = "rejoin_failed",
        /// The local file that guards against a rolled-back store cannot be written.
        FloorNotWritten = "floor_not_written",
        /// No replica could take over now.
        NoCandidate = "no_candidate",
        /// Commits are to wait for a standby, and there is none.
        NoSynchronousStandby = "no_synchronous_standby",
        /// Another agent uses this member name.
        NameTaken = "name_taken",
        /// The latest `before_promote` hook did not end well.
        HookFailed = "hook_failed",
    }
);
