//! What the demo asks of the cluster as a person would, by the code of the commands.

use anyhow::{Context, ensure};
use uuid::Uuid;

use crate::cli::{order, pause};
use crate::config::Config;
use crate::core::ids::{Epoch, MemberId};
use crate::core::order::{Order, Wish};
use crate::core::records::{ClusterState, Snapshot};
use crate::core::time::Instant;
use crate::operator::Operator;
use crate::postmaster::now;

/// For those who read it in the store.
const BY: &str = "the demo";
/// Why transitions are paused.
const REASON: &str = "the demo kills the primary";

/// Asks for another primary, as `harmony-agent switchover` and `failback` do; returns the order's id and
/// the moment right before it was written.
///
/// # Errors
/// The store does not take it, or another order is open.
pub(super) async fn ask(config: &Config, wish: Wish) -> anyhow::Result<(Uuid, Instant)> {
    let mut operator = Operator::open(config).await?;
    let lease = operator.read().await?.lease.record().cloned().context("the store has no lease")?;
    let id = Uuid::new_v4();
    let order = Order {
        id: id.to_string(),
        wish,
        epoch: lease.epoch,
        to: None,
        by: BY.to_owned(),
        not_before: None,
        rehearsal: false,
    };
    let at = now();
    let place =
        |snapshot: &Snapshot, cluster: ClusterState| order::place(&order, None, snapshot, cluster);
    operator.change(place).await?;
    Ok((id, at))
}

/// Pauses automatic transitions, as `harmony-agent pause` does.
///
/// # Errors
/// The store does not take it.
pub(super) async fn pause(config: &Config) -> anyhow::Result<()> {
    let mut operator = Operator::open(config).await?;
    Ok(pause::put(&mut operator, REASON, BY, None).await?)
}

/// Ends the pause, as `harmony-agent resume` does; returns the moment right before.
///
/// # Errors
/// The store does not take it, or nothing is paused.
pub(super) async fn resume(config: &Config) -> anyhow::Result<Instant> {
    let mut operator = Operator::open(config).await?;
    let at = now();
    let lifted = pause::lift(&mut operator).await?;
    ensure!(lifted, "the pause was gone before it was ended");
    Ok(at)
}

/// Who holds the lease, and its epoch.
///
/// # Errors
/// The store does not answer, or has no lease.
pub(super) async fn holder(config: &Config) -> anyhow::Result<(MemberId, Epoch)> {
    let snapshot = Operator::open(config).await?.read().await?;
    let lease = snapshot.lease.record().context("the store has no lease")?;
    Ok((lease.holder.clone(), lease.epoch))
}
