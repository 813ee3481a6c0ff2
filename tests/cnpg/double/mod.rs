//! A double of CloudNativePG and of the Kubernetes it runs in. **It is none of both.** It imitates what
//! an agent beside an instance meets: an API server over real HTTP, the operator and the instance
//! managers as actors of their own, each with its cache and its own way to the server, and below every
//! pod a real PostgreSQL.
//!
//! ```text
//!  kube's client ──HTTP──► api ◄── operator   (switch, link, lag)
//!                           ▲  ◄── kubelet    (one task per pod)
//!                           └───── manager    (one per container) ──► PostgreSQL
//! ```
//!
//! One [`Double`] is one Kubernetes cluster with one namespace, so a site. Several run beside each other;
//! what they know of each other is in `externalClusters`. In a test:
//!
//! ```text
//! let site = Double::start(&Options::default());
//! let port = site.pod("pg-a-1").postgres.port;        // known before the Cluster is there
//! site.apply(MANIFEST).await;                         // YAML or JSON of a Cluster
//! site.until("pg-a", |cluster| cluster.text("/status/phase") == HEALTHY).await;
//! site.server().set_account("agent", "token", rules(ROLE)?); // who may come, and what he may do
//! let client = site.kube("token");                    // kube's client; or Double::url()
//! site.server().set_webhook_down(true);               // faults: set_network, set_faults, forget, …
//! site.world().operator.set_off(true);                // the operator; its link: set_cut, set_lag
//! site.pod("pg-a-1").knobs().node_down = true;        // a pod; its link too
//! site.server().calls();                              // every call, for tests of roles
//! ```
//!
//! All times of CloudNativePG and Kubernetes are shortened by [`Options::factor`]. As a program of its own
//! it is `cargo run --example cnpg-double` (see `main.rs` here), to be broken by [`admin`]; it is no part of what
//! is shipped.
//!
//! What it does as CloudNativePG does where nobody would expect it, and the test that says so (a test of
//! these lines sees to it that each is there):
//!
//! - a Cluster whose primary is fenced stays healthy, and `cnpg_collector_up` keeps what it said:
//!   `fences::a_fence_stops_postgresql_and_shows_nowhere_but_in_readiness`
//! - a fence that is no list of names fences nobody:
//!   `fences::what_cannot_be_read_fences_nobody_and_names_fence_one`
//! - a fence is seen late by a cache that lags behind, and not at all by one that is cut off:
//!   `fences::a_fence_that_is_not_seen_stops_nothing_and_comes_late`
//! - a fence outlives its pod: `fences::a_fence_outlives_its_pod`
//! - clients write through the checkpoint of a fence:
//!   `fences::clients_write_through_the_checkpoint_of_a_fence`
//! - after a fence was lifted its manager looks at nothing for twenty seconds:
//!   `fences::a_manager_that_lifted_a_fence_looks_up_after_a_pause`
//! - an unfence whose start fails leaves PostgreSQL down:
//!   `pods::an_unfence_that_cannot_start_postgresql_leaves_it_down`
//! - a cached Cluster that is invalid is not obeyed, not even as to a fence:
//!   `guards::what_no_webhook_would_have_taken_is_not_obeyed_not_even_a_fence`
//! - a demotion replaces whatever list there is by `*`, and lifts it:
//!   `demotions::a_demotion_replaces_every_fence_and_lifts_it`
//! - a demotion after an immediate stop never ends:
//!   `demotions::a_demotion_after_an_immediate_stop_never_ends_and_cannot_be_called_off`
//! - every writer meets conflicts, and gets through:
//!   `demotions::a_demotion_goes_through_a_storm_of_conflicts_and_waits_for_the_operator`
//! - a site's promotion leaves `currentPrimary` as it was, and is followed by a restart for `archive_mode`:
//!   `demotions::a_demotion_and_a_promotion_with_its_token_lose_nothing`
//! - a foreign token leaves a Cluster that only a right one helps:
//!   `promotions::a_foreign_token_leaves_a_cluster_that_only_a_right_one_helps`
//! - a promotion that fails is tried again in ever longer intervals, or when the Cluster changes:
//!   `promotions::a_promotion_that_fails_is_tried_again_ever_later_and_when_something_changes`
//! - an early token waits, a stale one is refused, and who clears one that waits has promoted without:
//!   `promotions::an_early_token_waits_and_a_stale_one_is_refused`
//! - a site that was taken over from comes back as a writable primary:
//!   `promotions::without_a_token_a_site_is_promoted_at_once_and_the_old_one_comes_back_writable`
//! - a promotion away from a fenced primary waits for its lease for ever:
//!   `instances::a_promotion_away_from_a_fenced_primary_waits_for_its_lease_until_its_pod_is_deleted`
//! - a former primary keeps the lease in a replica cluster:
//!   `leases::a_former_primary_keeps_the_lease_and_nobody_else_is_promoted_until_its_pod_goes`
//! - whoever loses the lease ends: `pods::a_foreign_holder_of_the_lease_ends_the_manager`
//! - the isolation check fails by the first peer that is not reached:
//!   `instances::a_primary_is_isolated_by_the_first_peer_it_does_not_reach`
//! - and is not made for a single instance: `pods::a_single_instance_is_never_isolated`
//! - a smart shutdown lets open sessions write: `pods::an_open_session_writes_through_a_smart_shutdown`
//! - nothing starts without the API server: `pods::a_killed_postgresql_is_restarted_unless_the_api_server_is_away`
//! - a sidecar's startup probe holds a new pod back: `pods::a_sidecar_s_probe_is_asked_until_it_says_yes`
//! - and not a container that is restarted:
//!   `pods::a_sidecar_holds_a_pod_back_and_not_a_container_that_is_restarted`
//! - without its webhook main resources are not written, and their status is:
//!   `api::the_webhook_refuses_main_writes_only`
//! - a promotion without a token is taken for a failed primary where the designated one is not first:
//!   `failovers::a_promotion_without_a_token_looks_like_a_failed_primary_meanwhile`
//! - `failoverDelay` is looked at before anything else:
//!   `failovers::a_failover_waits_for_its_delay_and_is_off_when_the_primary_is_back`
//! - the mark `pending` is taken back by the next pass:
//!   `failovers::the_mark_of_a_failover_is_taken_back_again_and_again_while_somebody_receives`
//! - a primary that is ready and does not answer is not failed over from:
//!   `operators::a_primary_that_is_ready_and_does_not_answer_is_not_failed_over_from`
//! - an operator that reaches no pod does nothing:
//!   `operators::an_operator_that_reaches_no_pod_changes_no_role`
//! - nor does one that sees two primaries:
//!   `operators::while_two_say_that_they_are_primaries_the_operator_does_nothing`
//! - `reconciliationLoop: disabled` stops the operator and no manager:
//!   `operators::a_cluster_the_operator_is_to_leave_alone_is_obeyed_by_its_managers_only`
//! - hibernation takes the primary first, and nobody takes over:
//!   `hibernation::a_cluster_that_sleeps_has_its_data_and_no_pods_the_primary_going_first`
//!
//! What it leaves out: certificates (`pg_hba.conf` trusts 127.0.0.1), services but `-rw` ([`Double::service`]; else a pod is reached by its
//! port), replication slots, backups, plugins, rolling updates, `pods/proxy`, quorum failover, other patches
//! than merge patches, and every part of a `Cluster` nothing here reads.

mod admin;
pub(crate) mod api;
pub(crate) mod cluster;
pub(crate) mod instance;
mod operator;
pub(crate) mod service;
mod site;
#[cfg(test)]
mod tests;
mod times;
pub(crate) mod token;
mod world;

pub(crate) use site::{Double, Options};
