//! From values to a [`Config`].

mod database;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::keys::{Default, Key, Kind};
use super::show::show;
use super::source::{Given, Origin, Sources, complete, gather, gather_text};
use super::table::KEYS;
use super::value::Value;
use super::{Config, Effective, LoadError, Loaded, LogFormat, Problem, Profile, Store, check};
use crate::core::event::ShutdownMode;
use crate::core::hook::{BeforePromote, Hook};
use crate::core::ids::Site;
use crate::core::policy::{Policy, Reaction, WatchdogMode};
use crate::core::records::Address;
use crate::core::synchronous::SynchronousMode;
use crate::{hooks, recording, store};

pub(super) fn load(sources: &Sources) -> Result<Loaded, LoadError> {
    finish(gather(sources)?, Reader::check_files)
}

pub(super) fn decode(file: &str, sources: &Sources) -> Result<Loaded, LoadError> {
    finish(gather_text(file, sources), |_| ())
}

fn finish(given: Given, check_files: impl FnOnce(&mut Reader)) -> Result<Loaded, LoadError> {
    let mut reader = Reader::new(given);
    reader.require();
    let config = reader.config();
    check_files(&mut reader);
    if reader.timing_is_whole() {
        let broken = check::policy_problems(&reader.policy());
        reader.problems.extend(broken.into_iter().map(|what| Problem::new(None, what)));
    }
    if let Some(config) = &config {
        check::relations(config, &mut reader.problems, &mut reader.warnings);
    }
    match config {
        Some(config) if reader.problems.is_empty() => {
            let effective = reader.effective();
            Ok(Loaded { config, warnings: reader.warnings, effective })
        }
        Some(_) | None => {
            Err(LoadError::Invalid { problems: reader.problems, warnings: reader.warnings })
        }
    }
}

pub(super) fn http_listen(sources: &Sources) -> Result<SocketAddr, LoadError> {
    let mut reader = Reader::new(gather(sources)?);
    reader.problems.clear();
    let listen = reader.parsed::<SocketAddr>("http.listen", LISTEN_RULE);
    listen.ok_or(LoadError::Invalid { problems: reader.problems, warnings: reader.warnings })
}

/// The hook that can be required.
const HOOK_WAITED_FOR: &str = "hooks.before_promote";

const LISTEN_RULE: &str = "an IP address and a port, as in 127.0.0.1:8008";

struct Reader {
    values: BTreeMap<&'static str, (Value, Origin)>,
    given: Given,
    profile: Profile,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reader {
    fn new(mut given: Given) -> Self {
        let word = match given.values.get("profile") {
            Some((Value::Text(word), _)) => word.as_str(),
            Some(_) | None => Profile::Standard.name(),
        };
        let index = Profile::ALL.iter().position(|profile| profile.name() == word).unwrap_or(1);
        let values = complete(&given, index);
        let problems = std::mem::take(&mut given.problems);
        let warnings = std::mem::take(&mut given.warnings);
        Self { values, given, profile: Profile::ALL[index], problems, warnings }
    }

    fn require(&mut self) {
        let kind = self.kind();
        let of_other_kind =
            |key: &Key| key.path.starts_with("database.local.") && kind != database::Kind::Local;
        let required = |key: &&Key| key.default == Default::Required && !of_other_kind(key);
        for key in KEYS.iter().filter(required) {
            // What is misspelt has been named with what was meant.
            let said =
                self.given.broken.contains(key.path) || self.given.misspelt.contains(key.path);
            if !self.values.contains_key(key.path) && !said {
                let (path, variable) = (key.path, key.variable());
                self.problem(format!(
                    "{path} is missing; set it in the file, with {variable} or with --set {path}=…"
                ));
            }
        }
    }

    fn check_files(&mut self) {
        for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::File | Kind::Secret)) {
            let Some((Value::Text(file), origin)) = self.values.get(key.path) else { continue };
            let about = |what: String| Problem::new(Some(origin.clone()), what);
            match check::file(key, file) {
                Ok(None) => {}
                Ok(Some(warning)) => self.warnings.push(about(warning)),
                Err(problem) => self.problems.push(about(problem)),
            }
        }
        for key in KEYS.iter().filter(|key| key.kind == Kind::Command) {
            let Some((Value::List(command), origin)) = self.values.get(key.path) else { continue };
            if let Some(problem) = check::program(key.path, command) {
                self.problems.push(Problem::new(Some(origin.clone()), problem));
            }
        }
    }

    fn problem(&mut self, what: String) {
        self.problems.push(Problem::new(None, what));
    }

    /// The configuration, with stand-ins for what is wrong, so that the rules see all the rest.
    fn config(&mut self) -> Option<Config> {
        let stand_in = "unknown";
        let cluster_id = self.parsed("cluster_id", "a name of a cluster");
        let cluster_id = cluster_id.or_else(|| stand_in.parse().ok());
        let member = self.parsed("member", "a name of a member");
        let member = member.or_else(|| stand_in.parse().ok());
        self.parsed::<Site>("site", "a short name of a place");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let http_listen = self.parsed("http.listen", LISTEN_RULE).unwrap_or(any_port);
        let log_level = self.log_level();
        let recording = self.recording();
        let store = self.store();
        let member = member?;
        let (database, host, port) = self.database(&member);
        Some(Config {
            cluster_id: cluster_id?,
            member,
            state_dir: self.path("state_dir"),
            profile: self.profile,
            policy: self.policy(),
            store,
            address: Address { host, port, http: self.optional("http.advertise") },
            database,
            peers_secret_file: self.file("peers.secret_file"),
            hooks: self.hooks(),
            on_sigterm: match self.text("shutdown.on_sigterm").as_str() {
                "leave_running" => ShutdownMode::LeaveRunning,
                _ => ShutdownMode::HandOver,
            },
            http_listen,
            recording,
            log_format: match self.text("log.format").as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => LogFormat::Auto,
            },
            log_level,
        })
    }

    fn policy(&self) -> Policy {
        let time = |name: &str| self.duration(&format!("timing.{name}"));
        Policy {
            heartbeat_interval: time("heartbeat_interval"),
            heartbeat_timeout: time("heartbeat_timeout"),
            failure_threshold: small(self.whole("timing.failure_threshold")),
            fence_timeout: time("fence_timeout"),
            safety_margin: time("safety_margin"),
            lease_duration: time("lease_duration"),
            clock_drift_ppm: small(self.whole("timing.clock_drift")),
            takeover_step: time("takeover_step"),
            maximum_lag_on_failover: self.whole("failover.maximum_lag_on_failover"),
            priority: u8::try_from(self.whole("failover.priority")).unwrap_or(u8::MAX),
            site: self.optional("site").and_then(|site| site.parse().ok()),
            may_bootstrap: self.flag("failover.may_bootstrap"),
            synchronous: match self.text("synchronous.mode").as_str() {
                "on" => SynchronousMode::On,
                "strict" => SynchronousMode::Strict,
                _ => SynchronousMode::Off,
            },
            synchronous_standbys: u8::try_from(self.whole("synchronous.standbys")).unwrap_or(1),
            failback_after: Some(self.duration("failover.failback_after"))
                .filter(|after| !after.is_zero()),
            cool_down: time("cool_down"),
            hand_over_timeout: time("hand_over_timeout"),
            stop_timeout: time("stop_timeout"),
            start_timeout: time("start_timeout"),
            promote_timeout: time("promote_timeout"),
            before_promote: self.command(Hook::BeforePromote).map(|_| BeforePromote {
                limit: self.duration("hooks.timeout"),
                required: self.flag("hooks.before_promote_required"),
            }),
            rejoin_timeout: time("rejoin_timeout"),
            promises: self.flag("peers.promises"),
            watchdog: match self.text("watchdog.mode").as_str() {
                "off" => WatchdogMode::Off,
                "required" => WatchdogMode::Required,
                _ => WatchdogMode::Automatic,
            },
            on_hung: self.reaction("failover.on_hung"),
            on_disk_full: self.reaction("failover.on_disk_full"),
            demotes: self.kind() == database::Kind::Cnpg,
            shutdown_timeout: time("shutdown_timeout"),
        }
    }

    fn reaction(&self, path: &str) -> Reaction {
        match self.text(path).as_str() {
            "fail_over" => Reaction::FailOver,
            _ => Reaction::Alert,
        }
    }

    fn hooks(&mut self) -> hooks::Settings {
        let program = |hook: Hook| Some((hook, self.command(hook)?));
        let programs: BTreeMap<_, _> = Hook::ALL.into_iter().filter_map(program).collect();
        let timeout = self.duration("hooks.timeout");
        let before = Hook::BeforePromote;
        let required = self.flag("hooks.before_promote_required");
        if required
            && !programs.contains_key(&before)
            && !self.given.broken.contains(HOOK_WAITED_FOR)
        {
            self.problem(format!(
                "hooks.before_promote_required is true without {HOOK_WAITED_FOR}; set both or neither"
            ));
        }
        hooks::Settings { programs, timeout }
    }

    fn command(&self, hook: Hook) -> Option<Vec<String>> {
        let path = format!("hooks.{}", hook.name());
        let Some((Value::List(command), _)) = self.values.get(path.as_str()) else { return None };
        Some(command.clone())
    }

    fn store(&mut self) -> Store {
        if self.text("store.backend") == "sqlite" {
            return Store::Sqlite(store::sqlite::Settings { path: self.path("store.sqlite.path") });
        }
        let servers = match self.values.get("store.nats.servers") {
            Some((Value::List(servers), _)) => servers.clone(),
            Some(_) | None => Vec::new(),
        };
        if servers.is_empty() && !self.given.broken.contains("store.nats.servers") {
            self.problem(
                "store.nats.servers is missing; backend = \"nats\" needs at least one, as in \
                 [\"nats://10.0.0.1:4222\"]"
                    .to_owned(),
            );
        }
        Store::Nats(store::nats::Settings {
            servers,
            auth: self.auth(),
            tls_ca_file: self.file("store.nats.tls_ca_file"),
            tls_certificate_file: self.file("store.nats.tls_certificate_file"),
            tls_key_file: self.file("store.nats.tls_key_file"),
            replicas: u8::try_from(self.whole("store.nats.replicas")).unwrap_or(u8::MAX),
            connect_timeout: self.duration("store.nats.connect_timeout"),
            ping_interval: self.duration("store.nats.ping_interval"),
        })
    }

    fn auth(&mut self) -> store::nats::Auth {
        use store::nats::Auth;
        let mut found = Vec::new();
        match (self.optional("store.nats.user"), self.file("store.nats.password_file")) {
            (Some(user), Some(password_file)) => {
                found.push(("user", Auth::UserPassword { user, password_file }));
            }
            (None, None) => {}
            (Some(_), None) => {
                self.problem(
                    "store.nats.user is set without store.nats.password_file; set both".to_owned(),
                );
            }
            (None, Some(_)) => {
                self.problem(
                    "store.nats.password_file is set without store.nats.user; set both".to_owned(),
                );
            }
        }
        let token =
            self.file("store.nats.token_file").map(|file| ("token_file", Auth::Token(file)));
        let nkey = self.file("store.nats.nkey_file").map(|file| ("nkey_file", Auth::Nkey(file)));
        let credentials = self
            .file("store.nats.credentials_file")
            .map(|file| ("credentials_file", Auth::Credentials(file)));
        found.extend(token.into_iter().chain(nkey).chain(credentials));
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            self.problem(format!("store.nats has {names}: keep one way to authenticate"));
        }
        found.into_iter().next().map_or(Auth::None, |(_, auth)| auth)
    }

    fn recording(&mut self) -> Option<recording::Settings> {
        let (path, max_size) = ("record.file", self.whole("record.max_size"));
        if max_size == 0 {
            return None;
        }
        if self.optional(path).is_none() && !self.given.broken.contains(path) {
            let file = self.path("state_dir").join("recording.jsonl").display().to_string();
            self.values.insert(path, (Value::Text(file), Origin::Found));
        }
        Some(recording::Settings { file: self.path(path), max_size })
    }

    fn log_level(&mut self) -> String {
        let level = self.text("log.level");
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level) {
            let origin = self.origin("log.level");
            let what = format!(
                "log.level is {level:?}, expected error, warn, info, debug, trace or a filter: {error}"
            );
            self.problems.push(Problem::new(origin, what));
        }
        level
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, path: &'static str, rule: &str) -> Option<T> {
        let text = self.optional(path)?;
        let error = match text.parse() {
            Ok(parsed) => return Some(parsed),
            Err(error) => error,
        };
        let what = format!("{path} is {text:?}, expected {rule}: {error}");
        let origin = self.origin(path);
        self.problems.push(Problem::new(origin, what));
        None
    }

    fn origin(&self, path: &str) -> Option<Origin> {
        self.values.get(path).map(|(_, origin)| origin.clone())
    }

    /// No timing was said badly, so that its rule is worth checking.
    fn timing_is_whole(&self) -> bool {
        !self.given.broken.iter().any(|path| path.starts_with("timing."))
    }

    fn optional(&self, path: &str) -> Option<String> {
        let Some((Value::Text(text), _)) = self.values.get(path) else { return None };
        Some(text.clone())
    }

    fn file(&self, path: &str) -> Option<PathBuf> {
        self.optional(path).map(PathBuf::from)
    }

    // A value that is required and missing, or was said badly and has no default, is a problem
    // already: what stands in for it here goes no further.

    fn text(&self, path: &str) -> String {
        self.optional(path).unwrap_or_default()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.text(path).into()
    }

    fn whole(&self, path: &str) -> u64 {
        let Some((Value::Whole(number), _)) = self.values.get(path) else { return 0 };
        *number
    }

    fn flag(&self, path: &str) -> bool {
        let Some((Value::Flag(flag), _)) = self.values.get(path) else { return false };
        *flag
    }

    fn duration(&self, path: &str) -> Duration {
        let Some((Value::Duration(duration), _)) = self.values.get(path) else {
            return Duration::ZERO;
        };
        *duration
    }

    fn effective(&self) -> Vec<Effective> {
        let keys = KEYS.iter().filter_map(|key| Some((key, self.values.get(key.path)?)));
        keys.map(|(key, (value, origin))| Effective {
            key: key.path,
            value: show(key.kind, value),
            origin: origin.to_string(),
        })
        .collect()
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
