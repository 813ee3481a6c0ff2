//! What is asked of CloudNativePG for each change of role: pure, from the Cluster as it was read to the
//! patch, or to why there is none.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::mark::Fence;
use super::token;
use super::us::Us;
use super::{audit, obstacle};
use crate::core::ids::{Lsn, SystemId, TimelineId};
use crate::core::token::Token;
use crate::database::server::control::Control;
use crate::database::server::outcome::{Failure, Step};

/// At which version of the Cluster we last had CloudNativePG try a promotion again.
pub(super) const KNOCK: &str = "harmony-agent.io/promotion";

/// What a step of this kind gives: a patch, or nothing to do.
pub(super) type Patch = Step<Option<Value>>;

fn refused(why: impl Into<String>) -> Failure {
    Failure::Refused(why.into())
}

/// Nothing stands in the way of changing this site's role.
pub(super) fn may_change(cluster: &Cluster, us: &Us) -> Step<()> {
    match audit::refusal(cluster, us).or_else(|| obstacle(cluster)) {
        Some(why) => Err(refused(why)),
        None => Ok(()),
    }
}

/// The site opens as the primary it was: only our fence is lifted.
pub(super) fn opening(cluster: &Cluster, us: &Us) -> Patch {
    may_change(cluster, us)?;
    if cluster.is_replica() {
        return Err(refused(format!(
            "spec.replica.primary says that this site is a replica, its data is a primary's: make \
             spec.replica.primary {:?}, or let it be demoted",
            cluster.site()
        )));
    }
    if us.is_passed_over(cluster) {
        return Err(refused(format!(
            "CloudNativePG is to make {} the primary (status.targetPrimary): this instance becomes its standby",
            cluster.status.target_primary
        )));
    }
    unfenced(cluster, us, None)
}

/// The site is promoted, with or without the token of the site it takes over from.
pub(super) fn promotion(cluster: &Cluster, us: &Us, token: Option<&Token>) -> Patch {
    may_change(cluster, us)?;
    if cluster.is_switching() {
        return Err(refused(
            "CloudNativePG is still making it a replica (status.switchReplicaClusterStatus)",
        ));
    }
    let given = cluster.spec.replica.as_ref().map_or("", |it| it.promotion_token.reveal());
    let wanted = token.map_or("", |token| token.value.reveal());
    if !cluster.is_replica() && given == wanted {
        return unfenced(cluster, us, None);
    }
    let token = token.map_or(Value::Null, |token| json!(token.value.reveal()));
    let replica = json!({ "primary": cluster.site(), "promotionToken": token });
    unfenced(cluster, us, Some(replica))
}

/// Nothing is to be changed, as CloudNativePG was told already; but it met the bar, and tries again in ever longer
/// intervals if nothing changes.
pub(super) fn knock(cluster: &Cluster) -> Value {
    json!({ "metadata": { "annotations": { KNOCK: cluster.metadata.resource_version } } })
}

/// The site becomes a replica of `to`; it is fenced in the same breath, as the operator comes later.
pub(super) fn demotion(cluster: &Cluster, us: &Us, to: &str) -> Patch {
    may_change(cluster, us)?;
    if follows(cluster, to) {
        return Ok(None);
    }
    let fence = Fence::of(cluster, us);
    if fence.is_shared() {
        return Err(refused(
            "somebody else has fenced the Cluster, and a demotion would lift that: lift it, or demote by hand",
        ));
    }
    let mut patch = following(cluster, to)?;
    if let Some(annotations) = fence.set(us) {
        patch["metadata"]["annotations"] = annotations;
    }
    Ok(Some(patch))
}

/// The replica follows another site.
pub(super) fn repointing(cluster: &Cluster, us: &Us, to: &str) -> Patch {
    may_change(cluster, us)?;
    if follows(cluster, to) {
        return Ok(None);
    }
    following(cluster, to).map(Some)
}

fn following(cluster: &Cluster, to: &str) -> Step<Value> {
    if cluster.external(to).is_none() {
        return Err(refused(format!(
            "{to} is not in spec.externalClusters: the site does not know how to reach it; add it"
        )));
    }
    if cluster.is_switching() {
        return Err(refused(
            "CloudNativePG is still making it a replica of somebody else (status.switchReplicaClusterStatus)",
        ));
    }
    // A token left behind would be refused, and with it this change.
    Ok(json!({ "spec": { "replica": { "primary": to, "source": to, "promotionToken": null } } }))
}

/// It is a replica of `to` already, as far as `spec` goes.
pub(super) fn follows(cluster: &Cluster, to: &str) -> bool {
    cluster.spec.replica.as_ref().is_some_and(|replica| {
        cluster.is_replica()
            && replica.primary.as_deref() == Some(to)
            && replica.source == to
            && replica.promotion_token.reveal().is_empty()
    })
}

fn unfenced(cluster: &Cluster, us: &Us, replica: Option<Value>) -> Patch {
    let fence = Fence::of(cluster, us);
    if fence.is_foreign {
        return Err(refused(
            "somebody else has fenced the instance (annotation cnpg.io/fencedInstances): it is theirs to lift",
        ));
    }
    let mut patch = json!({});
    if let Some(replica) = replica {
        patch["spec"]["replica"] = replica;
    }
    if let Some(annotations) = fence.lift_for_opening().or_else(|| fence.forget()) {
        patch["metadata"]["annotations"] = annotations;
    }
    Ok(patch.as_object().is_some_and(|patch| !patch.is_empty()).then_some(patch))
}

/// What our data has to be for a token.
pub(super) fn fits(token: &Token, system: Option<SystemId>, timeline: TimelineId) -> Step<()> {
    let read = token::read(token.value.reveal()).map_err(Failure::Refused)?;
    if (read.system, read.timeline, read.lsn) != (token.system, token.timeline, token.lsn) {
        return Err(refused("the token says something else than what was noted of it"));
    }
    if system != Some(read.system) {
        return Err(refused("the token is of another database (system identifier)"));
    }
    if read.timeline < timeline {
        return Err(refused(format!(
            "the token is of timeline {}, the data is on {timeline}: it is an old one",
            read.timeline
        )));
    }
    Ok(())
}

/// How far a demotion is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demotion {
    /// Not done.
    Underway(&'static str),
    /// Done, with a token of this very end of the log.
    Proven(Box<Token>),
    /// Done; there is no token, or one that says nothing about this.
    Unproven,
}

/// Looks at the Cluster and the data. A token that was there before is of another demotion: what counts
/// is that it names the checkpoint the data ended with.
pub(super) fn demoted(
    cluster: &Cluster,
    to: &str,
    standby_data: bool,
    end: &Control,
) -> Step<Demotion> {
    if !follows(cluster, to) {
        return Err(Failure::Unknown(format!(
            "somebody changed spec.replica: it does not follow {to} any more"
        )));
    }
    if cluster.is_switching() {
        return Ok(Demotion::Underway("CloudNativePG is making it a replica"));
    }
    if !standby_data {
        return Ok(Demotion::Underway("its data is still a primary's"));
    }
    let end: (SystemId, TimelineId, Lsn) = (end.system, end.timeline, end.checkpoint);
    let token = token::read(cluster.status.demotion_token.reveal()).ok();
    let ours = token.filter(|token| (token.system, token.timeline, token.lsn) == end);
    Ok(ours.map_or(Demotion::Unproven, |token| Demotion::Proven(Box::new(token))))
}
