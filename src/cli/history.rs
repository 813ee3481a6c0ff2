//! `harmony-agent history`: the latest changes of primary, from the journal in the store.

use serde::Serialize;

use super::exit::{Code, Failure};
use super::order::failure;
use super::output::{self, bytes};
use super::{Settings, runtime};
use crate::core::ids::Epoch;
use crate::core::journal::{AtRisk, Contender, Demotion, Ending, Evidence, Phase, Report};
use crate::operator::Operator;

/// Arguments of `history`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// What to tell; without it, all there is in a table
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to tell.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Tell one change: what was known, who could have taken over, what took how long
    Show {
        /// The epoch that began with it
        #[arg(value_parser = epoch)]
        epoch: Epoch,
        /// One JSON document instead of text
        #[arg(long)]
        json: bool,
    },
}

fn epoch(text: &str) -> Result<Epoch, String> {
    text.parse().map(Epoch).map_err(|_| format!("{text:?} is no epoch: a number is expected"))
}

/// What `history --json` prints.
#[derive(Debug, Serialize)]
struct History {
    reports: Vec<Report>,
    unreadable: Vec<Unreadable>,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    key: String,
    why: String,
}

/// Prints the journal, or one report of it.
///
/// # Errors
/// The store is not there, does not answer (69) or lets nobody in (77); there is no such report (66).
pub fn history(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let history = runtime()?.block_on(read(settings))?;
    match &arguments.command {
        None if arguments.json => output::print(&output::json(&history)?),
        None => output::print(&table(&history)),
        Some(Command::Show { epoch, json }) => {
            let report = find(&history, *epoch)?;
            output::print(&if *json { output::json(report)? } else { page(report) })
        }
    }
}

async fn read(settings: &Settings) -> Result<History, Failure> {
    let config = settings.read()?.config;
    let operator = Operator::open(&config).await.map_err(failure)?;
    let (mut reports, unreadable) = operator.journal().await.map_err(failure)?;
    reports.reverse();
    let unreadable =
        unreadable.into_iter().map(|(key, why)| Unreadable { key: key.to_string(), why });
    Ok(History { reports, unreadable: unreadable.collect() })
}

fn find(history: &History, epoch: Epoch) -> Result<&Report, Failure> {
    history.reports.iter().find(|report| report.epoch == epoch).ok_or_else(|| {
        let there = match (history.reports.last(), history.reports.first()) {
            (Some(oldest), Some(newest)) => {
                format!("there are some of epochs {} to {}", oldest.epoch, newest.epoch)
            }
            _ => "there is none at all".to_owned(),
        };
        Failure::new(
            Code::NoInput,
            format!("the journal has no report of epoch {epoch}; {there}. `harmony-agent history` lists them"),
        )
    })
}

fn table(history: &History) -> String {
    let head =
        ["EPOCH", "WHEN", "PRIMARY", "BEFORE", "WHY", "ASKED BY", "WRITABLE AFTER", "AT RISK"];
    let mut text = match history.reports.is_empty() {
        true => "the journal is empty: no primary of this release has been made yet".to_owned(),
        false => output::table(&head, history.reports.iter().map(row)),
    };
    for Unreadable { key, why } in &history.unreadable {
        text.push_str(&format!("\nNOT READ: {key}: {why}"));
    }
    output::plain(&text)
}

fn row(report: &Report) -> Vec<String> {
    let dash = || "-".to_owned();
    let before = report.evidence.as_ref().map_or_else(dash, |it| it.holder.to_string());
    let why = match &report.outcome {
        Ending::Opened => report.reason.clone(),
        Ending::GivenUp(why) => format!("{}; NOT OPENED: {why}", report.reason),
    };
    vec![
        report.epoch.to_string(),
        if report.at.is_empty() { dash() } else { report.at.clone() },
        report.holder.to_string(),
        before,
        why,
        report.asked.as_ref().map_or_else(dash, |asked| asked.by.clone()),
        report.writable_ms.map_or_else(dash, seconds),
        report.at_risk.map_or_else(dash, risk),
    ]
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1_000, milliseconds % 1_000)
}

fn risk(AtRisk { bytes: count, exact }: AtRisk) -> String {
    format!("{}{}", if exact { "" } else { "at least " }, bytes(count))
}

/// A report for people.
#[doc(hidden)]
pub fn page(report: &Report) -> String {
    let mut lines = vec![match &report.outcome {
        Ending::Opened => format!("epoch {}: {} became the primary", report.epoch, report.holder),
        Ending::GivenUp(why) => {
            format!(
                "epoch {}: {} took the lease, and was no primary: {why}",
                report.epoch, report.holder
            )
        }
    }];
    lines.push(format!("why: {}", report.reason));
    if !report.at.is_empty() {
        lines.push(format!("written {} by its own clock", report.at));
    }
    if let Some(asked) = &report.asked {
        let to = asked.to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        lines.push(format!("asked for: {}{to}, by {}", asked.wish, asked.by));
    }
    lines.push(String::new());
    match &report.evidence {
        Some(it) => lines.extend(evidence(it)),
        None => lines.push("There was no lease to be obeyed before.".to_owned()),
    }
    if let Some(at_risk) = report.at_risk {
        lines.push(lost(at_risk));
    }
    if !report.synchronous.is_empty() {
        let names: Vec<&str> = report.synchronous.iter().map(|member| member.as_str()).collect();
        lines.push(format!("Had every acknowledged commit: {}", names.join(", ")));
    }
    lines.push(String::new());
    lines.push("Who could have taken over:".to_owned());
    lines.extend(report.contenders.iter().map(|it| format!("  {}", contender(it))));
    if report.contenders.is_empty() {
        lines.push("  nobody but the holder itself was considered".to_owned());
    }
    lines.push(String::new());
    lines.push("What took how long:".to_owned());
    lines.extend(report.phases.iter().map(|it| format!("  {}", phase(it))));
    if let Some(all) = report.writable_ms {
        lines.push(format!("  writable {} after the last sign, or the decision", seconds(all)));
    }
    output::plain(&lines.join("\n"))
}

fn evidence(it: &Evidence) -> Vec<String> {
    let mut lines = vec![format!(
        "Before: {} in epoch {}, renewal {}, {}, timeline {}, position {}",
        it.holder, it.epoch, it.seq, it.status, it.database.timeline, it.database.lsn
    )];
    let revision = it.revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string());
    let unknown = || "not known".to_owned();
    lines.push(format!(
        "Its lease: revision {revision}, duration {}; unchanged for {} on the new primary's clock, whose \
         reads had worked for {}",
        seconds(it.lease_duration_ms),
        it.unchanged_ms.map_or_else(unknown, seconds),
        it.access_ms.map_or_else(unknown, seconds),
    ));
    let word = it.witness.as_ref().map_or_else(String::new, |word| format!(", which {word}"));
    lines.push(format!(
        "The store's clock{word}: {} from the lease to the new primary's newest heartbeat",
        it.store_ms.map_or_else(unknown, seconds)
    ));
    if let Some(release) = &it.release {
        let to = release.to.as_ref().map_or_else(|| "anybody".to_owned(), ToString::to_string);
        let end = release.lsn.map_or_else(
            || "where its log ends is not known".to_owned(),
            |lsn| format!("its log ends at {lsn} on timeline {}", release.timeline),
        );
        lines.push(format!("It released the lease to {to}: {}; {end}", release.reason));
    }
    if let Some(fence) = &it.fence {
        let clean = if fence.clean { "clean" } else { "not clean" };
        let why = if fence.why.is_empty() { "start" } else { &fence.why };
        lines.push(format!(
            "Its database was stopped for {why}: {} ({clean}), in {}",
            fence.rung,
            seconds(fence.took_ms)
        ));
        lines.extend(fence.demotion.as_ref().map(demotion));
    }
    lines
}

fn demotion(it: &Demotion) -> String {
    let took = seconds(it.took_ms);
    match (it.outcome.as_str(), it.token) {
        ("applied", true) => format!("It was made a standby in {took}, and gave out a token"),
        ("applied", false) => format!("It was made a standby in {took}, without a token"),
        ("refused", _) => format!("It did not let itself be made a standby, after {took}"),
        (_, _) => format!("Whether it was made a standby was not known after {took}"),
    }
}

fn lost(AtRisk { bytes: count, exact }: AtRisk) -> String {
    match (count, exact) {
        (0, true) => {
            "Nothing was at risk: the new primary had all of the old one's log.".to_owned()
        }
        (_, true) => format!("At risk: {count} bytes of the old primary's log."),
        (_, false) => format!(
            "At risk: {count} bytes of the old primary's log that it had told of, and what it wrote after \
             its last sign. Commits that waited for a synchronous standby are not among them."
        ),
    }
}

fn contender(it: &Contender) -> String {
    let place = it.place.map_or_else(
        || "not in line".to_owned(),
        |place| format!("number {} in line", place.saturating_add(1)),
    );
    let synchronous = if it.synchronous { ", synchronous" } else { "" };
    let age =
        it.age_ms.map_or_else(String::new, |age| format!(", heard of {} before", seconds(age)));
    let against =
        it.against.as_ref().map_or_else(String::new, |why| format!("; against it: {why}"));
    format!(
        "{}: {place}, priority {}, {} bytes behind at {} on timeline {}{synchronous}{age}{against}",
        it.member, it.priority, it.behind, it.lsn, it.timeline
    )
}

fn phase(Phase { name, took_ms, budget_ms }: &Phase) -> String {
    let budget =
        budget_ms.map_or_else(String::new, |budget| format!(" (budget {})", seconds(budget)));
    format!("{name}: {}{budget}", seconds(*took_ms))
}
