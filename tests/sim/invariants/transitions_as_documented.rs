//! The table of transitions is the whole truth.

use harmony_agent::core::event::{Reason, State};

use super::Invariant;
use crate::sim::world::{Fact, World};

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct TransitionsAsDocumented;

impl Invariant for TransitionsAsDocumented {
    fn name(&self) -> &'static str {
        "transitions_as_documented"
    }

    fn sentence(&self) -> &'static str {
        "Every transition and its reason are in the table of transitions."
    }

    fn source(&self) -> &'static str {
        "section 6 (transitions)"
    }

    fn fact(&mut self, world: &World, fact: &Fact) -> Result<(), String> {
        let Fact::Became(m, transition) = fact else { return Ok(()) };
        if reasons(transition.from, transition.to).contains(&transition.reason) {
            return Ok(());
        }
        Err(format!(
            "{}: {} to {} because of {}",
            world.name(*m),
            transition.from,
            transition.to,
            transition.reason
        ))
    }
}

const LOST: [Reason; 4] =
    [Reason::LeaseTaken, Reason::LeaseExpired, Reason::LeaseExpiring, Reason::RenewalsFailed];

/// The table of `docs/protocol.md`, section 6.
fn reasons(from: State, to: State) -> Vec<Reason> {
    use Reason as R;
    use State as S;
    let lost = |more: &[Reason]| LOST.iter().chain(more).copied().collect();
    match (from, to) {
        (S::ReplicaInitializing, S::ReplicaWatching) => vec![R::Following],
        (S::ReplicaInitializing, S::ReplicaFailed) => vec![R::DatabaseUnfit],
        (S::ReplicaInitializing, S::PrimaryInitializing) => {
            vec![R::StartedBesidePrimary, R::ClusterNew]
        }
        (S::ReplicaInitializing, S::PrimaryFailed) => vec![R::StrayPrimary],
        (S::ReplicaWatching, S::ReplicaPromoting) => {
            vec![R::LeaseReleased, R::HolderSilent, R::LeaseKept]
        }
        (S::ReplicaWatching, S::ReplicaFailed) => vec![R::DatabaseUnfit, R::HeartbeatsFailed],
        (S::ReplicaWatching, S::PrimaryFailed) => vec![R::StrayPrimary],
        (S::ReplicaPromoting, S::PrimaryHealthy) => vec![R::Promoted],
        (S::ReplicaPromoting, S::PrimaryFailed) => {
            vec![R::LeaseLost, R::PromotionFailed, R::HookRefused, R::Shutdown]
        }
        (S::ReplicaFailed, S::ReplicaInitializing) => vec![R::Recovered],
        (S::ReplicaFailed, S::PrimaryFailed) => vec![R::StrayPrimary],
        (S::PrimaryInitializing, S::PrimaryHealthy) => vec![R::LeaseApplied, R::LeaseKept],
        (S::PrimaryInitializing, S::PrimaryFailed) => {
            lost(&[R::StrayPrimary, R::StartFailed, R::Shutdown])
        }
        (S::PrimaryInitializing, S::PrimaryFenced) => vec![R::StartFailed],
        (S::PrimaryInitializing, S::PrimaryYielding) => vec![R::Deposed],
        (S::PrimaryInitializing, S::ReplicaInitializing) => lost(&[R::DatabaseNotPrimary]),
        (S::PrimaryHealthy, S::PrimaryFailed) => lost(&[
            R::DatabaseDied,
            R::DatabaseNotPrimary,
            R::DatabaseHung,
            R::DatabaseDiskFull,
            R::WatchdogMissing,
        ]),
        (S::PrimaryHealthy, S::PrimaryYielding) => vec![R::Shutdown, R::Switchover, R::Failback],
        (S::PrimaryFailed, S::PrimaryFenced) => vec![R::FenceConfirmed],
        (S::PrimaryFenced, S::PrimaryYielding) => vec![R::Deposed, R::HandOver, R::Shutdown],
        (S::PrimaryFenced, S::PrimaryInitializing) => vec![R::LeaseKept],
        (S::PrimaryFenced, S::PrimaryFailed) => vec![R::StrayPrimary],
        (S::PrimaryYielding, S::PrimaryFailed) => {
            lost(&[R::DatabaseDied, R::HandOver, R::StrayPrimary])
        }
        (S::PrimaryYielding, S::PrimaryHealthy | S::PrimaryFenced) => vec![R::CalledOff],
        (S::PrimaryYielding, S::PrimaryInitializing) => vec![R::TakenBack],
        (S::PrimaryYielding, S::ReplicaInitializing) => vec![R::Following, R::UpstreamChanged],
        (_, _) => Vec::new(),
    }
}
