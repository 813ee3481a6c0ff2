//! `harmony-agent member list` and `show`: what the store has about each member.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli::exit::Failure;
use crate::cli::order::failure;
use crate::cli::output::{self, Format};
use crate::cli::status::age;
use crate::config::Config;
use crate::core::candidate;
use crate::core::event::State;
use crate::core::ids::{InstanceId, Lsn, MemberId, Site, TimelineId};
use crate::core::membership::{Refused, known, silent_after};
use crate::core::policy::Policy;
use crate::core::records::{Address, ClusterState, Slot, Snapshot};
use crate::operator::{self, Operator};

/// One member as the store has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub member: MemberId,
    /// It holds the lease.
    pub primary: bool,
    /// Its own word on its state.
    pub state: Option<State>,
    /// Its preference as a candidate; 0 means never.
    pub priority: u8,
    /// Where it stands.
    pub site: Option<Site>,
    /// Timeline of its log.
    pub timeline: Option<TimelineId>,
    /// Position of its log.
    pub lsn: Option<Lsn>,
    /// Bytes behind the primary, as it last compared.
    pub lag: Option<u64>,
    /// WAL arrives from the primary.
    pub streaming: Option<bool>,
    /// Why it would not take over; `null` when it would, or is the primary.
    pub ineligible: Option<String>,
    /// What keeps the primary from handing over to it now, but for a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubtful: Option<String>,
    /// Seconds since its last sign, by the store's clock; `null` when there is none, or when that clock
    /// was set back since.
    pub age_seconds: Option<f64>,
    /// A person wants it not to take over.
    pub drained: bool,
    /// The state directory that is admitted to the cluster.
    pub admitted: Option<InstanceId>,
    /// The state directory that reported last.
    pub instance: Option<InstanceId>,
    /// Where it is reached.
    pub address: Option<Address>,
}

pub(super) async fn list(
    operator: &Operator,
    only: Option<&MemberId>,
    format: Format,
    config: &Config,
) -> Result<(), Failure> {
    let snapshot = operator.read().await.map_err(failure)?;
    let rows = rows(&snapshot, &operator::policy(config, &snapshot));
    let Some(member) = only else {
        return output::print(&match format {
            Format::Table => page(&rows),
            Format::Json => output::json(&rows)?,
            Format::Yaml => output::yaml(&rows)?,
        });
    };
    let Some(row) = rows.iter().find(|row| row.member == *member) else {
        let known = rows.into_iter().map(|row| row.member).collect();
        return Err(super::refused(Refused::Unknown { member: member.clone(), known }));
    };
    output::print(&match format {
        Format::Table => sheet(row),
        Format::Json => output::json(row)?,
        Format::Yaml => output::yaml(row)?,
    })
}

/// Everybody that the store knows of, in order of names.
#[doc(hidden)]
pub fn rows(snapshot: &Snapshot, policy: &Policy) -> Vec<Row> {
    let cluster = snapshot.cluster.record();
    let mut names: BTreeSet<MemberId> = match cluster {
        Some(cluster) => known(snapshot, cluster).into_iter().collect(),
        None => snapshot.heartbeats.keys().cloned().collect(),
    };
    names.extend(snapshot.lease.record().map(|lease| lease.holder.clone()));
    names.into_iter().map(|member| row(member, snapshot, cluster, policy)).collect()
}

fn row(
    member: MemberId,
    snapshot: &Snapshot,
    cluster: Option<&ClusterState>,
    policy: &Policy,
) -> Row {
    let settings = cluster.and_then(|cluster| cluster.members.get(&member));
    let admitted = settings.map(|settings| settings.instance.clone());
    let drained = cluster.is_some_and(|cluster| cluster.drained.contains(&member));
    let lease = snapshot.lease.record().filter(|it| it.released.is_none() && it.holder == member);
    let slot = snapshot.heartbeats.get(&member).filter(|_| lease.is_none());
    let heartbeat = slot.and_then(Slot::record);
    let age = match (lease, slot) {
        (Some(_), _) => snapshot.age(&snapshot.lease),
        (None, slot) => slot.and_then(|slot| snapshot.age(slot)),
    };
    let position =
        lease.map(|lease| lease.database).or(heartbeat.map(|heartbeat| heartbeat.database));
    let silent = age.is_none_or(|age| age > silent_after(snapshot, policy));
    let why = || candidate::why_not(&member, heartbeat, cluster, silent);
    Row {
        primary: lease.is_some(),
        state: lease.map(|lease| lease.status).or(heartbeat.map(|it| it.status)),
        priority: heartbeat
            .map(|it| it.priority)
            .or(settings.map(|settings| settings.priority))
            .unwrap_or_default(),
        site: heartbeat
            .and_then(|it| it.site.clone())
            .or_else(|| settings.and_then(|settings| settings.site.clone())),
        timeline: position.map(|position| position.timeline),
        lsn: position.map(|position| position.lsn),
        lag: heartbeat.map(|it| it.lag),
        streaming: heartbeat.map(|it| it.streaming),
        ineligible: if lease.is_some() { None } else { why() },
        doubtful: heartbeat.and_then(|it| it.doubtful.clone()),
        age_seconds: age.map(|age| age.as_secs_f64()),
        drained,
        instance: lease.map(|it| &it.instance).or(heartbeat.map(|it| &it.instance)).cloned(),
        admitted,
        address: lease
            .map(|it| &it.address)
            .or(heartbeat.map(|it| &it.address))
            .or(settings.map(|settings| &settings.address))
            .cloned(),
        member,
    }
}

/// A table for people.
#[doc(hidden)]
pub fn page(rows: &[Row]) -> String {
    let head = [
        "MEMBER",
        "ROLE",
        "STATE",
        "PRIORITY",
        "SITE",
        "TIMELINE",
        "LAG",
        "STREAMING",
        "CANDIDATE",
        "SEEN",
        "ADDRESS",
    ];
    output::plain(&output::table(&head, rows.iter().map(cells)))
}

fn cells(row: &Row) -> Vec<String> {
    let words = words(row);
    let [role, state, priority, site, timeline, lag, streaming, candidate, seen, address] = words;
    let member = row.member.to_string();
    vec![member, role, state, priority, site, timeline, lag, streaming, candidate, seen, address]
}

/// One member for people, a line for each thing.
fn sheet(row: &Row) -> String {
    let [role, state, priority, site, timeline, lag, streaming, candidate, seen, address] =
        words(row);
    let position = row.lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
    let id = |id: &Option<InstanceId>| id.as_ref().map_or("-".to_owned(), ToString::to_string);
    let lines = [
        ("member", row.member.to_string()),
        ("role", role),
        ("state", state),
        ("priority", priority),
        ("site", site),
        ("timeline", timeline),
        ("position", position),
        ("lag", lag),
        ("streaming", streaming),
        ("candidate", candidate),
        ("drained", if row.drained { "yes" } else { "no" }.to_owned()),
        ("seen", seen),
        ("address", address),
        ("instance admitted", id(&row.admitted)),
        ("instance seen", id(&row.instance)),
    ];
    let lines: Vec<String> =
        lines.into_iter().map(|(what, said)| format!("{what:<18} {said}")).collect();
    output::plain(&lines.join("\n"))
}

fn words(row: &Row) -> [String; 10] {
    let dash = || "-".to_owned();
    let role = match (row.primary, row.state) {
        (true, _) => "primary",
        (false, Some(_)) => "replica",
        (false, None) => "unknown",
    };
    let candidate = match (row.primary, &row.ineligible) {
        (true, _) if row.drained => "drained".to_owned(),
        (true, _) => dash(),
        (false, None) => format!("yes{}", output::but(row.doubtful.as_deref())),
        (false, Some(why)) => format!("no: {why}"),
    };
    [
        role.to_owned(),
        row.state.map_or_else(dash, |state| state.to_string()),
        row.priority.to_string(),
        row.site.as_ref().map_or_else(dash, ToString::to_string),
        row.timeline.map_or_else(dash, |timeline| timeline.to_string()),
        row.lag.map_or_else(dash, output::bytes),
        row.streaming.map_or_else(dash, |yes| if yes { "yes" } else { "no" }.to_owned()),
        candidate,
        row.age_seconds.map_or_else(dash, age),
        row.address.as_ref().map_or_else(dash, |it| format!("{}:{}", it.host, it.port)),
    ]
}
