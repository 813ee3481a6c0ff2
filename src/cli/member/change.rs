//! `harmony-agent member remove` and `drain`.

use std::cell::RefCell;

use super::{Drain, Remove, described, refused};
use crate::cli::exit::Failure;
use crate::cli::order::{confirm, failure, follow, leased, whoever};
use crate::cli::output;
use crate::config::Config;
use crate::core::ids::{Epoch, MemberId};
use crate::core::membership;
use crate::core::order::{Order, Wish};
use crate::core::records::{ClusterState, Snapshot};
use crate::operator::{Operator, policy};

pub(super) async fn remove(
    operator: &mut Operator,
    wanted: &Remove,
    config: &Config,
) -> Result<(), Failure> {
    let member = &wanted.member;
    let without = |snapshot: &Snapshot, cluster: ClusterState| {
        let silent_after = membership::silent_after(snapshot, &policy(config, snapshot));
        membership::remove(snapshot, cluster, member, silent_after)
            .map(Some)
            .map_err(|why| why.to_string())
    };
    let snapshot = operator.read().await.map_err(failure)?;
    without(&snapshot, described(&snapshot.cluster)?.clone()).map_err(refused)?;
    if !wanted.yes {
        confirm(&format!(
            "remove {member} from cluster {}: nobody counts on it any more; its data is not touched",
            config.cluster_id
        ))?;
    }
    operator.change(without).await.map_err(failure)?;
    output::print(&format!(
        "{member} is removed; when an agent of that name is started it joins again"
    ))
}

pub(super) async fn undrain(operator: &mut Operator, member: &MemberId) -> Result<(), Failure> {
    let back = |snapshot: &Snapshot, cluster: ClusterState| {
        membership::undrain(snapshot, cluster, member).map_err(|why| why.to_string())
    };
    match operator.change(back).await.map_err(failure)? {
        true => output::print(&format!("{member} may take over again")),
        false => output::print(&format!("{member} was not drained")),
    }
}

pub(super) async fn drain(
    operator: &mut Operator,
    wanted: &Drain,
    config: &Config,
) -> Result<(), Failure> {
    let member = &wanted.member;
    let order = Order {
        id: uuid::Uuid::new_v4().to_string(),
        wish: Wish::Switchover,
        epoch: Epoch(0),
        to: None,
        by: whoever(&config.member),
        not_before: None,
        rehearsal: false,
    };
    // The order as it was written last: who is the best changes.
    let placed = RefCell::new(None);
    let drained = |snapshot: &Snapshot, cluster: ClusterState| {
        let wanted =
            membership::drain(snapshot, cluster, member, &order, &policy(config, snapshot))
                .map_err(|why| why.to_string())?;
        let ours = wanted.as_ref().and_then(|cluster| cluster.order.clone());
        *placed.borrow_mut() = ours.filter(|open| open.id == order.id);
        Ok(wanted)
    };
    let snapshot = operator.read().await.map_err(failure)?;
    let after = drained(&snapshot, described(&snapshot.cluster)?.clone()).map_err(refused)?;
    let to = placed.borrow().as_ref().and_then(|order: &Order| order.to.clone());
    if let Some(to) = to.filter(|_| !wanted.yes) {
        confirm(&format!(
            "drain {member}, the primary of cluster {}: {to} takes over",
            config.cluster_id
        ))?;
    }
    if after.is_none() || !operator.change(drained).await.map_err(failure)? {
        return output::print(&format!("{member} is drained already"));
    }
    output::print(&format!(
        "{member} is drained: it will not take over until `harmony-agent member drain {member} --off`"
    ))?;
    let placed = placed.take();
    if let Some(order) = placed {
        let (revision, lease) = leased(&snapshot)?;
        return follow(operator, &order, (revision, lease), &policy(config, &snapshot))
            .await
            .map_err(|failure| {
                Failure::new(failure.code, format!("{failure}\n{member} stays drained"))
            });
    }
    let snapshot = operator.read().await.map_err(failure)?;
    let cluster = described(&snapshot.cluster)?;
    if membership::candidates(&snapshot, cluster, &policy(config, &snapshot)).is_empty() {
        output::complain("warning: nobody could take over from the primary now");
    }
    Ok(())
}
