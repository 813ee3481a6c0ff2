//! What has to be true whatever happens, one file each, with its sentence and its source in
//! `docs/protocol.md`. `docs/proof.md` lists them; each has a mutant in which it is violated.

mod bad_data_promotes_nobody;
mod clean_hand_over_loses_nothing;
mod converges;
mod demoted_before_promoted;
mod epoch_grows;
mod failover_by_hand_loses_only_what_it_may;
mod fenced_before_takeover;
mod floor_before_promotion;
mod floors_only_grow;
mod guarded_before_opening;
mod histories_agree;
mod journal_is_true_and_grows;
mod lag_is_bounded;
mod lease_before_opening;
mod lease_covers_writes;
mod lost_store_not_obeyed;
mod named_members_have_every_commit;
mod never_panics;
mod no_circles;
mod no_renewal_while_fencing;
mod one_name_one_holder;
mod one_transition_a_step;
mod one_writer;
mod orders_are_of_their_epoch;
mod pause_is_kept;
mod promotion_waits_for_hook;
mod released_is_fenced;
mod stale_decisions_change_nothing;
mod strict_means_two_disks;
mod synchronous_commits_survive;
mod takeover_is_admitted;
mod takeover_waits;
mod tasks_belong_to_their_epoch;
mod tokens_are_used_once;
mod transitions_as_documented;

use std::fmt::Debug;
use std::hash::{Hash, Hasher};

use super::world::{Fact, World};
pub(crate) use converges::Converges;
pub(crate) use never_panics::NeverPanics;

/// Something that has to be true.
pub(crate) trait Invariant: Kept + Debug {
    /// Its name, that of its file.
    fn name(&self) -> &'static str;
    /// What has to be true.
    fn sentence(&self) -> &'static str;
    /// Where that is promised: sections of `docs/protocol.md`, or files.
    fn source(&self) -> &'static str;
    /// Something happened.
    fn fact(&mut self, _world: &World, _fact: &Fact) -> Result<(), String> {
        Ok(())
    }
    /// Looked at after each thing that happened.
    fn instant(&mut self, _world: &World) -> Result<(), String> {
        Ok(())
    }
}

/// What it remembers is part of what a search has reached.
pub(crate) trait Kept: Send + Sync {
    /// Another one that remembers the same.
    fn copy(&self) -> Box<dyn Invariant>;
    /// What it remembers, into a hash.
    fn mark(&self, hasher: &mut dyn Hasher);
}

impl<T: Invariant + Clone + Hash + Send + Sync + 'static> Kept for T {
    fn copy(&self) -> Box<dyn Invariant> {
        Box::new(self.clone())
    }

    fn mark(&self, mut hasher: &mut dyn Hasher) {
        self.hash(&mut hasher);
    }
}

impl Clone for Box<dyn Invariant> {
    fn clone(&self) -> Self {
        (**self).copy()
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<one_writer::OneWriter>::default(),
        Box::<lease_covers_writes::LeaseCoversWrites>::default(),
        Box::<fenced_before_takeover::FencedBeforeTakeover>::default(),
        Box::<takeover_waits::TakeoverWaits>::default(),
        Box::<epoch_grows::EpochGrows>::default(),
        Box::<lease_before_opening::LeaseBeforeOpening>::default(),
        Box::<floor_before_promotion::FloorBeforePromotion>::default(),
        Box::<guarded_before_opening::GuardedBeforeOpening>::default(),
        Box::<released_is_fenced::ReleasedIsFenced>::default(),
        Box::<no_renewal_while_fencing::NoRenewalWhileFencing>::default(),
        Box::<one_transition_a_step::OneTransitionAStep>::default(),
        Box::<transitions_as_documented::TransitionsAsDocumented>::default(),
        Box::<lag_is_bounded::LagIsBounded>::default(),
        Box::<clean_hand_over_loses_nothing::CleanHandOverLosesNothing>::default(),
        Box::<one_name_one_holder::OneNameOneHolder>::default(),
        Box::<lost_store_not_obeyed::LostStoreNotObeyed>::default(),
        Box::<histories_agree::HistoriesAgree>::default(),
        Box::<bad_data_promotes_nobody::BadDataPromotesNobody>::default(),
        Box::<floors_only_grow::FloorsOnlyGrow>::default(),
        Box::<stale_decisions_change_nothing::StaleDecisionsChangeNothing>::default(),
        Box::<synchronous_commits_survive::SynchronousCommitsSurvive>::default(),
        Box::<named_members_have_every_commit::NamedMembersHaveEveryCommit>::default(),
        Box::<strict_means_two_disks::StrictMeansTwoDisks>::default(),
        Box::<tasks_belong_to_their_epoch::TasksBelongToTheirEpoch>::default(),
        Box::<pause_is_kept::PauseIsKept>::default(),
        Box::<orders_are_of_their_epoch::OrdersAreOfTheirEpoch>::default(),
        Box::<failover_by_hand_loses_only_what_it_may::FailoverByHandLosesOnlyWhatItMay>::default(),
        Box::<promotion_waits_for_hook::PromotionWaitsForHook>::default(),
        Box::<demoted_before_promoted::DemotedBeforePromoted>::default(),
        Box::<tokens_are_used_once::TokensAreUsedOnce>::default(),
        Box::<journal_is_true_and_grows::JournalIsTrueAndGrows>::default(),
        Box::<takeover_is_admitted::TakeoverIsAdmitted>::default(),
        Box::<no_circles::NoCircles>::default(),
        Box::<NeverPanics>::default(),
        Box::<Converges>::default(),
    ]
}

/// Whether this machine's database would acknowledge a commit now, and the protocol answers for it:
/// it does not when neither agent nor watchdog could act (`World::excuse`), nor within the moment
/// that they take to act after the whole machine stood still (`docs/protocol.md`, section 11).
pub(crate) fn is_writer(world: &World, m: usize) -> bool {
    world.can_acknowledge(m) && !world.machines[m].excused && !is_waking(world, m)
}

/// This machine stood still as a whole until a moment ago.
pub(crate) fn is_waking(world: &World, m: usize) -> bool {
    let resumed = world.machines[m].resumed;
    resumed > 0 && world.now < resumed + world.setup.scaled(150)
}
