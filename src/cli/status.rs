//! `harmony-agent status`: the cluster as an agent sees it.

use std::time::Duration;

use hyper::StatusCode;

use super::Settings;
use super::exit::{Code, Failure};
use super::output::{self, Format};
use crate::config::{http_listen, show_duration};
use crate::core::ids::MemberId;
use crate::core::order::{Answer, Order};
use crate::core::synchronous::{Requirement, SynchronousMode};
use crate::http::client;
use crate::http::view::{
    MemberView, NotObeyed, PauseView, ProgressView, Role, SynchronousView, View,
};

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Print it again every so many seconds until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
    /// Agent to ask, http://host:port; may be repeated, the first that answers counts
    /// [default: the local agent, by http.listen]
    #[arg(long, value_name = "URL")]
    pub url: Vec<String>,
}

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks an agent and prints what it says.
///
/// # Errors
/// No agent answers (69), an answer is not understood (65), or an address is wrong (64, 66, 78).
pub fn status(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let agents = agents(&arguments.url, settings)?;
    super::runtime()?.block_on(async {
        let Some(seconds) = arguments.watch else {
            return output::print(&report(&agents, arguments.output).await?);
        };
        loop {
            match report(&agents, arguments.output).await {
                Ok(text) if arguments.output == Format::Table => {
                    output::print(&format!("{CLEAR}{text}"))?;
                }
                Ok(text) => output::print(&text)?,
                Err(failure) => output::complain(&failure.to_string()),
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                interrupted = tokio::signal::ctrl_c() => {
                    return interrupted.map_err(|error| Failure::new(Code::Internal, error));
                }
            }
        }
    })
}

/// Moves the terminal's cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What the first agent of `urls` that answers says, or the local one.
///
/// # Errors
/// As [`status`].
pub(super) async fn ask(urls: &[String], settings: &Settings) -> Result<View, Failure> {
    view(&agents(urls, settings)?).await
}

fn agents(urls: &[String], settings: &Settings) -> Result<Vec<String>, Failure> {
    if urls.is_empty() {
        let mut address = http_listen(&settings.sources())?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        return Ok(vec![address.to_string()]);
    }
    urls.iter().map(|url| authority(url)).collect()
}

fn authority(url: &str) -> Result<String, Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let rest = rest.trim_end_matches('/');
    let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_ok()) && !rest.contains('/') {
        return Ok(rest.to_owned());
    }
    Err(Failure::new(Code::Usage, format!("--url is {url:?}, expected http://host:port")))
}

async fn report(agents: &[String], format: Format) -> Result<String, Failure> {
    let view = view(agents).await?;
    match format {
        Format::Table => Ok(page(&view)),
        Format::Json => output::json(&view),
        Format::Yaml => output::yaml(&view),
    }
}

async fn view(agents: &[String]) -> Result<View, Failure> {
    let mut failures = Vec::new();
    for agent in agents {
        match client::get(agent, "/status", PATIENCE).await {
            Ok((StatusCode::OK, body)) => {
                return decode(&body).map_err(|error| {
                    Failure::new(Code::Data, format!("http://{agent}/status: {error}"))
                });
            }
            Ok((status, _)) => failures.push(format!("http://{agent}/status: answered {status}")),
            Err(failure) => failures.push(failure),
        }
    }
    let text = failures.join("\n");
    Err(Failure::new(
        Code::Unavailable,
        format!(
            "{text}\nno agent answered; is it running? name another with --url http://host:port"
        ),
    ))
}

/// The answer of an agent.
///
/// # Errors
/// It is none.
#[doc(hidden)]
pub fn decode(body: &[u8]) -> Result<View, String> {
    serde_json::from_slice(body).map_err(|error| format!("not the answer of an agent: {error}"))
}

/// A view for people.
#[doc(hidden)]
pub fn page(view: &View) -> String {
    let holder = view.lease.holder.as_ref().map_or("nobody", |holder| holder.as_str());
    let left = view.lease.seconds_left.map_or(String::new(), |left| format!(", {left:.1} s left"));
    let mut lines = vec![
        format!("cluster {} as {} sees it", view.cluster_id, view.member),
        format!("lease: {holder}, epoch {}{left}", view.lease.epoch),
    ];
    let store = if view.store.connected { "connected" } else { "NOT CONNECTED" };
    let trouble =
        view.store.trouble.as_ref().map_or(String::new(), |trouble| format!(": {trouble}"));
    lines.push(format!("store: {}, {store}{trouble}", view.store.backend));
    lines.push(String::new());
    let mut head =
        vec!["MEMBER", "ROLE", "STATE", "TIMELINE", "LSN", "LAG", "CANDIDATE", "SEEN", "ADDRESS"];
    let sites = view.members.iter().any(|member| member.site.is_some());
    if sites {
        head.push("SITE");
    }
    lines.push(output::table(&head, view.members.iter().map(|member| row(member, sites))));
    lines.push(String::new());
    lines.push(view.takeover.clone());
    if let Some(progress) = &view.progress {
        lines.push(format!("{} is {}", view.member, how_far(progress)));
    }
    if let Some(last) = &view.last_transition {
        let ago = last.seconds_ago;
        lines.push(format!(
            "last transition: {} → {}, {}, {ago:.0} s ago",
            last.from, last.to, last.reason
        ));
    }
    lines.extend(synchronous(&view.synchronous));
    if let Some(PauseView { reason, by, ends, ends_in_seconds }) = &view.paused {
        let until = match (ends, ends_in_seconds) {
            (_, Some(left)) => format!("for {left:.0} s more"),
            (true, None) => "for a time".to_owned(),
            (false, None) => "until `harmony-agent resume`".to_owned(),
        };
        lines.push(format!("PAUSED {until}: {reason} ({by})"));
    }
    if let Some(Order { wish, to, by, not_before, .. }) = &view.order {
        let to = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
        let when = match (not_before, view.order_due_in_seconds) {
            (Some(_), Some(left)) => format!(", in {left:.0} s"),
            (Some(_) | None, _) => String::new(),
        };
        lines.push(format!("ASKED FOR: {}{to}{when} ({by})", wish.name()));
    }
    if let Some(Answer { text, .. }) = &view.answer {
        lines.push(format!("last asked for: {text}"));
    }
    for alarm in &view.alarms {
        lines.push(format!("ALARM: {alarm}"));
    }
    for NotObeyed { what, why } in &view.not_obeyed {
        lines.push(format!("NOT OBEYED: {what}: {why}"));
    }
    output::plain(&lines.join("\n"))
}

fn synchronous(view: &SynchronousView) -> Option<String> {
    let SynchronousView { mode, members, requirement } = view;
    let told = requirement.as_ref().filter(|it| **it != Requirement::Nobody);
    if *mode == SynchronousMode::Off && members.is_empty() && told.is_none() {
        return None;
    }
    let names: Vec<&str> = members.iter().map(MemberId::as_str).collect();
    let named = if names.is_empty() { "nobody for certain".to_owned() } else { names.join(", ") };
    let waits = told.map_or_else(String::new, |it| format!("; commits here wait for {it}"));
    Some(format!("synchronous {}: every commit is on {named}{waits}", mode.name()))
}

/// A step, and its bytes where they are known.
pub(super) fn how_far(ProgressView { step, done_bytes, total_bytes }: &ProgressView) -> String {
    match (done_bytes, total_bytes) {
        (Some(done), Some(total)) => {
            format!("{step}: {} of {}", output::bytes(*done), output::bytes(*total))
        }
        (None, Some(total)) => format!("{step}: {}", output::bytes(*total)),
        (_, None) => step.clone(),
    }
}

fn row(member: &MemberView, sites: bool) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let candidate = match (member.role, &member.ineligible) {
        (Role::Primary, _) if member.drained => "drained".to_owned(),
        (Role::Primary, _) => "-".to_owned(),
        (Role::Replica | Role::Unknown, None) => {
            let but = output::but(member.doubtful.as_deref());
            format!("yes, priority {}{but}", member.priority)
        }
        (Role::Replica | Role::Unknown, Some(why)) => format!("no: {why}"),
    };
    let site = sites.then(|| or_dash(member.site.as_ref().map(ToString::to_string)));
    let cells = [
        member.member.to_string(),
        member.role.name().to_owned(),
        or_dash(member.state.map(|state| state.to_string())),
        or_dash(member.timeline.map(|timeline| timeline.to_string())),
        or_dash(member.lsn.map(|lsn| lsn.to_string())),
        or_dash(member.lag.map(output::bytes)),
        candidate,
        or_dash(member.age_seconds.map(age)),
        or_dash(
            member.address.as_ref().map(|address| format!("{}:{}", address.host, address.port)),
        ),
    ];
    cells.into_iter().chain(site).collect()
}

/// How long ago something was.
pub(super) fn age(seconds: f64) -> String {
    let rounded = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    match rounded.as_secs() {
        0..=9 => format!("{seconds:.1} s ago"),
        10..=119 => format!("{} s ago", rounded.as_secs()),
        120.. => format!("{} ago", show_duration(Duration::from_secs(rounded.as_secs()))),
    }
}
