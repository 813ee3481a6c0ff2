//! The rules between values, each by name and with its numbers.

mod database;

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::keys::{Key, Kind};
use super::value::show_duration;
use super::{Config, Problem, Store};
use crate::core::event::ShutdownMode;
use crate::core::policy::{Policy, WatchdogMode};
use crate::core::timing::Timing;
use crate::store;

/// The rule that keeps a primary from writing when a replica may already have taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingRule {
    policy: Policy,
    /// Longest time from an applied renewal to proven fencing, with the margin.
    pub needed: Duration,
    /// The lease as the holder may count on it, clock drift taken off.
    pub allowed: Duration,
}

impl TimingRule {
    /// The rule with the numbers of `policy`.
    pub fn of(policy: &Policy) -> Self {
        let timing = Timing::of(policy);
        Self { policy: policy.clone(), needed: timing.needed(), allowed: timing.allowed() }
    }

    /// The rule is kept.
    pub fn holds(&self) -> bool {
        self.needed <= self.allowed
    }

    /// Shortest lease, in whole milliseconds, with which the rule would be kept.
    pub fn shortest_lease(&self) -> Duration {
        let drift = u128::from(self.policy.clock_drift_ppm.min(999_999));
        let lease = (self.needed.as_micros() * 1_000_000).div_ceil(1_000_000 - drift);
        Duration::from_millis(u64::try_from(lease.div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for TimingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        write!(
            f,
            "heartbeat_interval {} + failure_threshold {} × heartbeat_timeout {} + fence_timeout {} \
             + safety_margin {} = {} {} lease_duration {} × (1 − clock_drift {}) = {}",
            show_duration(policy.heartbeat_interval),
            policy.failure_threshold,
            show_duration(policy.heartbeat_timeout),
            show_duration(policy.fence_timeout),
            show_duration(policy.safety_margin),
            show_duration(self.needed),
            if self.holds() { "≤" } else { ">" },
            show_duration(policy.lease_duration),
            f64::from(policy.clock_drift_ppm) / 1e6,
            show_duration(self.allowed),
        )
    }
}

/// Every rule of the timings that `policy` breaks, with the numbers; empty when it may be used.
pub fn policy_problems(policy: &Policy) -> Vec<String> {
    let mut problems = ranges(policy);
    let rule = TimingRule::of(policy);
    if !rule.holds() {
        let shortest = show_duration(rule.shortest_lease());
        problems.push(format!(
            "timing rule broken: {rule}; raise lease_duration to {shortest} or lower the others"
        ));
    }
    problems.extend(between_timings(policy));
    if !policy.lease_duration.subsec_nanos().is_multiple_of(1_000_000) {
        problems.push(format!(
            "timing.lease_duration is {}; it has to be whole milliseconds: candidates wait by the record, \
             which says no less",
            show_duration(policy.lease_duration)
        ));
    }
    problems
}

const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

fn ranges(policy: &Policy) -> Vec<String> {
    let ms = Duration::from_millis;
    let minute = Duration::from_secs(60);
    // Shorter than this, scheduling alone breaks them; longer than this, they are mistakes.
    let limits = [
        ("heartbeat_interval", policy.heartbeat_interval, ms(10), 10 * minute),
        ("heartbeat_timeout", policy.heartbeat_timeout, ms(10), 10 * minute),
        ("fence_timeout", policy.fence_timeout, ms(100), 10 * minute),
        ("safety_margin", policy.safety_margin, ms(10), 10 * minute),
        ("lease_duration", policy.lease_duration, ms(100), 60 * minute),
        ("takeover_step", policy.takeover_step, ms(1), 10 * minute),
        ("cool_down", policy.cool_down, ms(1), LONGEST),
        ("hand_over_timeout", policy.hand_over_timeout, ms(1), 60 * minute),
        ("stop_timeout", policy.stop_timeout, ms(1), LONGEST),
        ("start_timeout", policy.start_timeout, ms(1), LONGEST),
        ("promote_timeout", policy.promote_timeout, ms(1), LONGEST),
        ("rejoin_timeout", policy.rejoin_timeout, ms(1), LONGEST),
        ("shutdown_timeout", policy.shutdown_timeout, ms(1), LONGEST),
    ];
    let outside = limits.iter().filter(|(_, value, least, most)| value < least || value > most);
    let mut problems: Vec<String> = outside
        .map(|(name, value, least, most)| {
            let [value, least, most] = [value, least, most].map(|time| show_duration(*time));
            format!("timing.{name} is {value}; it has to be {least} to {most}")
        })
        .collect();
    let drift = policy.clock_drift_ppm;
    if !(500..=100_000).contains(&drift) {
        problems.push(format!(
            "timing.clock_drift is {}; it has to be 0.0005 (what NTP may slew) to 0.1",
            f64::from(drift) / 1e6
        ));
    }
    if policy.failure_threshold == 0 {
        problems.push("timing.failure_threshold is 0; it has to be at least 1".to_owned());
    }
    problems
}

fn between_timings(policy: &Policy) -> Vec<String> {
    let mut problems = Vec::new();
    let mut at_least = |name: &str, value: Duration, parts: &[(&str, Duration)], why: &str| {
        let least = parts.iter().fold(Duration::ZERO, |sum, part| sum.saturating_add(part.1));
        if value < least {
            let parts: Vec<_> = parts
                .iter()
                .map(|(name, part)| format!("{name} {}", show_duration(*part)))
                .collect();
            problems.push(format!(
                "timing.{name} is {}, less than {} = {}: {why}",
                show_duration(value),
                parts.join(" + "),
                show_duration(least),
            ));
        }
    };
    let interval = ("heartbeat_interval", policy.heartbeat_interval);
    let timeout = ("heartbeat_timeout", policy.heartbeat_timeout);
    let fence = ("fence_timeout", policy.fence_timeout);
    at_least(
        "hand_over_timeout",
        policy.hand_over_timeout,
        &[interval, timeout],
        "a taker that has to poll would come too late",
    );
    at_least(
        "shutdown_timeout",
        policy.shutdown_timeout,
        &[
            ("hand_over_timeout", policy.hand_over_timeout),
            ("stop_timeout", policy.stop_timeout),
            fence,
            timeout,
        ],
        "the agent would end before PostgreSQL is stopped and the lease given back",
    );
    at_least(
        "cool_down",
        policy.cool_down,
        &[interval],
        "a failed promotion would be tried again before others had a turn",
    );
    if let Some(hook) = policy.before_promote.filter(|hook| hook.limit >= policy.promote_timeout) {
        problems.push(format!(
            "hooks.timeout is {}, not less than timing.promote_timeout {}: a before_promote hook that \
             takes its time would leave none for the promotion",
            show_duration(hook.limit),
            show_duration(policy.promote_timeout)
        ));
    }
    problems
}

/// Rules beyond the timings, and what is allowed but questionable.
pub(super) fn relations(config: &Config, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let mut broken = database::problems(config);
    broken.extend(words(config));
    broken.extend(hook_limit(config));
    if config.on_sigterm == ShutdownMode::LeaveRunning
        && config.policy.watchdog == WatchdogMode::Off
    {
        broken.push(
            "shutdown.on_sigterm is leave_running and watchdog.mode is off: nothing would end PostgreSQL \
             when the lease does; use watchdog.mode = \"automatic\""
                .to_owned(),
        );
    }
    let mut questionable = doubts(config);
    match &config.store {
        Store::Sqlite(sqlite) => questionable.extend(sqlite_doubts(sqlite)),
        Store::Nats(nats) => {
            broken.extend(nats_problems(nats));
            questionable.extend(nats_doubts(config, nats));
        }
    }
    problems.extend(broken.into_iter().map(|what| Problem::new(None, what)));
    warnings.extend(questionable.into_iter().map(|what| Problem::new(None, what)));
}

fn hook_limit(config: &Config) -> Option<String> {
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(600));
    let limit = config.hooks.timeout;
    (limit < least || limit > most).then(|| {
        let [limit, least, most] = [limit, least, most].map(show_duration);
        format!("hooks.timeout is {limit}; it has to be {least} to {most}")
    })
}

fn words(config: &Config) -> Option<String> {
    let http = config.address.http.as_ref().filter(|http| !is_host_and_port(http))?;
    Some(format!("http.advertise is {http:?}, expected host:port as in 10.0.0.1:8008"))
}

fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':').map(|(host, port)| (!host.is_empty(), port.parse::<u16>()));
    matches!(parts, Some((true, Ok(1..))))
}

fn nats_problems(nats: &store::nats::Settings) -> Vec<String> {
    let mut problems = Vec::new();
    for server in &nats.servers {
        let rest = server.strip_prefix("nats://").or_else(|| server.strip_prefix("tls://"));
        let shown = server.rsplit_once('@').map_or(server.as_str(), |(_, host)| host);
        if server.contains('@') {
            problems.push(format!(
                "store.nats.servers has credentials before {shown:?}; secrets come from files: use \
                 user and password_file"
            ));
        } else if !rest.is_some_and(is_host_and_port) {
            problems.push(format!(
                "store.nats.servers has {shown:?}, expected nats://host:port or tls://host:port"
            ));
        }
    }
    if ![1, 3, 5].contains(&nats.replicas) {
        problems.push(format!("store.nats.replicas is {}, expected 1, 3 or 5", nats.replicas));
    }
    if nats.tls_certificate_file.is_some() != nats.tls_key_file.is_some() {
        problems.push(
            "store.nats.tls_certificate_file and store.nats.tls_key_file go together; set both or neither"
                .to_owned(),
        );
    }
    for (name, value) in
        [("connect_timeout", nats.connect_timeout), ("ping_interval", nats.ping_interval)]
    {
        if value < Duration::from_millis(10) {
            let value = show_duration(value);
            problems.push(format!("store.nats.{name} is {value}; it has to be at least 10ms"));
        }
    }
    problems
}

/// Longest election of a JetStream leader: a constant of nats-server.
const LONGEST_ELECTION: Duration = Duration::from_secs(9);

fn nats_doubts(config: &Config, nats: &store::nats::Settings) -> Vec<String> {
    let mut doubts = Vec::new();
    let policy = &config.policy;
    let patience = policy.heartbeat_timeout.saturating_mul(policy.failure_threshold);
    let shown = format!(
        "failure_threshold {} × heartbeat_timeout {} = {}",
        policy.failure_threshold,
        show_duration(policy.heartbeat_timeout),
        show_duration(patience)
    );
    let unless = if policy.promises { ", unless all other members promise" } else { "" };
    // The silent server carries no messages either.
    let http = policy.promises && config.peers_secret_file.is_some();
    let unless_http = if http { ", unless all other members promise over HTTP" } else { "" };
    if nats.replicas > 1 && patience < LONGEST_ELECTION {
        doubts.push(format!(
            "{shown} is less than the {} a NATS cluster may take to elect a leader: the primary will \
             be fenced when a NATS server dies{unless}",
            show_duration(LONGEST_ELECTION)
        ));
    }
    let notice = nats.ping_interval.saturating_mul(2).saturating_add(nats.connect_timeout);
    if patience < notice {
        doubts.push(format!(
            "{shown} is less than 2 × store.nats.ping_interval {} + store.nats.connect_timeout {} = {}: \
             the primary will be fenced before it has noticed a silent NATS server and found another{unless_http}",
            show_duration(nats.ping_interval),
            show_duration(nats.connect_timeout),
            show_duration(notice)
        ));
    }
    if policy.promises && config.peers_secret_file.is_none() {
        doubts.push(
            "peers.promises is on without peers.secret_file: unless NATS permissions keep the agents' \
             inboxes apart, whoever may publish there can forge a promise, and a primary goes on that \
             should not"
                .to_owned(),
        );
    }
    if nats.replicas == 1 {
        doubts
            .push("store.nats.replicas is 1: one NATS server holds the cluster's state".to_owned());
    }
    doubts
}

fn sqlite_doubts(sqlite: &store::sqlite::Settings) -> Option<String> {
    let directory = sqlite.path.parent().filter(|directory| !directory.is_dir())?;
    Some(format!("store.sqlite.path: there is no directory {}", directory.display()))
}

fn doubts(config: &Config) -> Vec<String> {
    let mut doubts = database::doubts(config);
    let mut doubt = |is: bool, what: String| doubts.extend(is.then_some(what));
    doubt(
        config.policy.watchdog == WatchdogMode::Off,
        "watchdog.mode is off: an agent that dies or freezes leaves a PostgreSQL that goes on \
         accepting writes beside its successor"
            .to_owned(),
    );
    doubt(
        config.policy.priority == 0 && config.policy.may_bootstrap,
        "failover.priority is 0 but failover.may_bootstrap is true: this member may become the first \
         primary and never again"
            .to_owned(),
    );
    doubt(
        config.policy.takeover_step > config.policy.lease_duration,
        format!(
            "timing.takeover_step {} is longer than lease_duration {}: the second in line comes late",
            show_duration(config.policy.takeover_step),
            show_duration(config.policy.lease_duration)
        ),
    );
    doubts
}

/// Checks a file that has to be readable: a warning, or what is wrong. Never says what is in it.
pub(super) fn file(key: &Key, path: &str) -> Result<Option<String>, String> {
    let name = key.path;
    let unreadable = |error: std::io::Error| {
        format!(
            "{name}: the file {path} cannot be read: {error}; check the path and its permissions"
        )
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if file.read(&mut [0]).map_err(unreadable)? == 0 {
        return Err(format!("{name}: the file {path} is empty"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    let open = key.kind == Kind::Secret && mode & 0o007 != 0;
    Ok(open.then(|| {
        format!("{name}: everybody can read the file {path} (mode {mode:o}); chmod o= {path}")
    }))
}

/// What is wrong with a program that is to be run.
pub(super) fn program(name: &str, command: &[String]) -> Option<String> {
    let program = command.first()?;
    let wrong = match std::fs::metadata(program) {
        Err(error) => format!("cannot be looked at: {error}"),
        Ok(metadata) if !metadata.is_file() => "is no file".to_owned(),
        Ok(_) => match rustix::fs::access(program.as_str(), rustix::fs::Access::EXEC_OK) {
            Ok(()) => return None,
            Err(error) => format!("cannot be executed: {error}; chmod +x {program}"),
        },
    };
    Some(format!("{name}: the program {program} {wrong}"))
}
