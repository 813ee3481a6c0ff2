//! `harmony-agent explain`: why the cluster is as it is, and what would happen if its primary died now.

use super::Settings;
use super::exit::Failure;
use super::output::{self, bytes};
use super::status::ask;
use crate::core::ids::{Epoch, MemberId};
use crate::core::order::Order;
use crate::core::synchronous::SynchronousMode;
use crate::http::view::{
    MemberView, NotObeyed, PauseView, Role, SynchronousView, View, WatchdogView,
};

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Agent to ask, http://host:port; may be repeated, the first that answers counts
    /// [default: the local agent, by http.listen]
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
}

/// Asks an agent and says in words what it decides, by the same functions, and why.
///
/// # Errors
/// As [`super::status::status`].
pub fn explain(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let view = super::runtime()?.block_on(ask(&arguments.url, settings))?;
    output::print(&page(&view))
}

/// The explanation of a view.
#[doc(hidden)]
pub fn page(view: &View) -> String {
    let mut lines = vec![format!("cluster {} as {} sees it", view.cluster_id, view.member)];
    lines.push(String::new());
    lines.extend(now(view));
    lines.push(String::new());
    lines.extend(then(view));
    lines.push(String::new());
    let missing = missing(view);
    lines.push(match missing.len() {
        0 => "Nothing is missing for a failover.".to_owned(),
        _ => "Missing for a failover to be sure and safe:".to_owned(),
    });
    lines.extend(missing.into_iter().map(|what| format!("  - {what}")));
    output::plain(&lines.join("\n"))
}

/// How it is, and why.
fn now(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let sign = view
        .staleness_seconds
        .map_or_else(String::new, |age| format!("; its lease last moved {age:.1} s ago"));
    lines.push(match &view.lease.holder {
        Some(holder) => format!("{holder} is the primary since epoch {}{sign}.", view.lease.epoch),
        None => format!("Nobody holds the lease; the last epoch is {}{sign}.", view.lease.epoch),
    });
    if let Some(left) = view.lease.seconds_left {
        lines.push(format!("It may write for {left:.1} s more without another renewal."));
    }
    if view.lease.epoch > Epoch(0) {
        lines.push(format!("How it became so: `harmony-agent history show {}`.", view.lease.epoch));
    }
    if let Some(last) = &view.last_transition {
        lines.push(format!(
            "{} went from {} to {} {:.0} s ago: {}.",
            view.member, last.from, last.to, last.seconds_ago, last.reason
        ));
    }
    if let Some(PauseView { reason, by, .. }) = &view.paused {
        lines.push(format!("Automatic transitions are paused: {reason} ({by})."));
    }
    if let Some(Order { wish, to, by, .. }) = &view.order {
        let to = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        lines.push(format!("A {}{to} is asked for ({by}).", wish.name()));
    }
    lines.push(kept(&view.synchronous));
    lines
}

/// Who has what was acknowledged.
fn kept(view: &SynchronousView) -> String {
    let SynchronousView { mode, members, .. } = view;
    if !members.is_empty() {
        let names: Vec<&str> = members.iter().map(MemberId::as_str).collect();
        return format!(
            "Every acknowledged commit is on {}: nobody else takes over.",
            names.join(", ")
        );
    }
    match mode {
        SynchronousMode::Off => {
            "Replication is asynchronous: what is not yet on a standby is lost with \
                                 the primary."
                .to_owned()
        }
        SynchronousMode::On => {
            "No standby has every commit: for now replication is asynchronous, and \
                                what is not yet on a standby is lost with the primary."
                .to_owned()
        }
        SynchronousMode::Strict => {
            "No standby has every commit yet: until one has, none is acknowledged.".to_owned()
        }
    }
}

/// What would happen if the primary died.
fn then(view: &View) -> Vec<String> {
    let primary = view.lease.holder.as_ref().map_or("the primary", |holder| holder.as_str());
    let mut lines = vec![format!("If {primary} died now:")];
    let member = |name| view.members.iter().find(|member| member.member == name);
    for (place, name) in view.line.iter().enumerate() {
        let behind = member(name.clone()).and_then(|member| member.lag);
        let behind = behind
            .map_or_else(String::new, |lag| format!(", {} behind when last compared", bytes(lag)));
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let after = view.failover_seconds + view.takeover_step_seconds * f64::from(place);
        lines.push(match place {
            0 => format!("  {name} would take over {after:.2} s after its last sign{behind}"),
            _ => format!("  then {name}, after {after:.2} s{behind}"),
        });
    }
    if view.line.is_empty() {
        lines.push("  nobody would take over".to_owned());
    }
    let others = view
        .members
        .iter()
        .filter(|it| it.role != Role::Primary && !view.line.contains(&it.member));
    lines.extend(others.map(|it| format!("  not {}: {}", it.member, why_not(it))));
    lines
}

fn why_not(member: &MemberView) -> String {
    match (&member.ineligible, member.state) {
        (Some(why), _) => why.clone(),
        (None, Some(state)) => format!(
            "it is {state}, and was last heard of {:.1} s ago",
            member.age_seconds.unwrap_or_default()
        ),
        (None, None) => "it has not been heard of".to_owned(),
    }
}

fn missing(view: &View) -> Vec<String> {
    let mut missing: Vec<String> = view
        .alarms
        .iter()
        .map(|alarm| format!("the alarm {alarm} stands; see the runbook of its name"))
        .collect();
    if view.line.is_empty() && view.paused.is_none() {
        missing.push("a member that could take over".to_owned());
    }
    if view.paused.is_some() {
        missing.push("the end of the pause: `harmony-agent resume`".to_owned());
    }
    if !view.store.connected {
        let why = view.store.trouble.as_deref().unwrap_or("not connected");
        missing.push(format!("the store, as seen from {}: {why}", view.member));
    }
    if view.watchdog == WatchdogView::Off {
        missing.push(format!(
            "a watchdog of {}: an agent that dies or freezes there leaves a database that goes on writing",
            view.member
        ));
    }
    for NotObeyed { what, why } in &view.not_obeyed {
        missing.push(format!("{what}, which is not obeyed: {why}"));
    }
    missing
}
