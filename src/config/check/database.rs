//! Rules of the database's settings.

use std::path::Path;
use std::time::Duration;

use super::super::value::show_duration;
use super::super::{Config, Database, Store};
use crate::core::synchronous::SynchronousMode;
use crate::database::{cnpg, local};

/// Less would not hold the core of a cluster with many members and what follows it.
const SHORTEST_RECORDING: u64 = 1 << 20;

/// What both kinds have, with the section it stands in.
struct Common<'a> {
    section: &'static str,
    data_key: &'static str,
    data_dir: &'a Path,
    socket_dir: &'a Path,
    port: u16,
    bin_dir: &'a Path,
    program: &'static str,
    hung_after: Duration,
    write_probe_interval: Duration,
}

impl<'a> Common<'a> {
    fn of(database: &'a Database) -> Self {
        match database {
            Database::Local(local) => Self {
                section: "database.local",
                data_key: "data_dir",
                data_dir: &local.data_dir,
                socket_dir: &local.socket_dir,
                port: local.port,
                bin_dir: &local.bin_dir,
                program: "postgres",
                hung_after: local.hung_after,
                write_probe_interval: local.write_probe_interval,
            },
            Database::Cnpg(cnpg) => Self {
                section: "database.cnpg",
                data_key: "pgdata",
                data_dir: &cnpg.pgdata,
                socket_dir: &cnpg.socket_dir,
                port: cnpg.port,
                bin_dir: &cnpg.bin_dir,
                program: "pg_controldata",
                hung_after: cnpg.hung_after,
                write_probe_interval: cnpg.write_probe_interval,
            },
        }
    }
}

/// What CloudNativePG may take for a promotion without anything being wrong.
const PROMOTION: Duration = Duration::from_secs(30);

/// What breaks a rule.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let common = Common::of(&config.database);
    let mut problems = places(config, &common);
    problems.extend(probes(&common));
    problems.extend(match &config.database {
        Database::Local(local) => local_problems(config, local),
        Database::Cnpg(cnpg) => cnpg_problems(config, cnpg),
    });
    problems
}

/// What is allowed but questionable.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let Common { section, bin_dir, program, .. } = Common::of(&config.database);
    let mut doubts = Vec::new();
    if !bin_dir.as_os_str().is_empty() && !bin_dir.join(program).exists() {
        doubts.push(format!("{section}.bin_dir {} has no program {program}", bin_dir.display()));
    }
    let here = ["localhost", "127.0.0.1", "::1"].contains(&config.address.host.as_str());
    if here && matches!(config.store, Store::Nats(_)) {
        doubts.push(format!(
            "{section}.host is {}: members on other machines cannot reach this PostgreSQL",
            config.address.host
        ));
    }
    let limit = config.policy.promote_timeout;
    if matches!(config.database, Database::Cnpg(_)) && limit < PROMOTION {
        doubts.push(format!(
            "timing.promote_timeout is {}: CloudNativePG's instance manager looks at nothing for 20s after a \
             fence, and tries a promotion token every 10s; set it to at least {}",
            show_duration(limit),
            show_duration(PROMOTION)
        ));
    }
    doubts
}

fn places(config: &Config, common: &Common<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    let Common { section, data_key, data_dir: data, .. } = common;
    let state = &config.state_dir;
    if !data.as_os_str().is_empty() && state.starts_with(data) {
        problems.push(format!(
            "state_dir {} lies in {section}.{data_key} {}: what is in there is replaced when the \
             database is copied anew; choose another",
            state.display(),
            data.display()
        ));
    }
    if let Some(recording) = &config.recording {
        if !data.as_os_str().is_empty() && recording.file.starts_with(data) {
            problems.push(format!(
                "record.file {} lies in {section}.{data_key} {}: what is in there is replaced when the \
                 database is copied anew; choose another",
                recording.file.display(),
                data.display()
            ));
        }
        if recording.max_size < SHORTEST_RECORDING {
            problems.push(format!(
                "record.max_size is {} bytes; it has to be at least 1MiB, or 0B to record nothing",
                recording.max_size
            ));
        }
    }
    // sun_path of sockaddr_un holds 108 bytes, the last one zero.
    let socket = common.socket_dir.join(format!(".s.PGSQL.{}", common.port));
    let length = socket.as_os_str().len();
    if length > 107 {
        problems.push(format!(
            "{section}.socket_dir {} makes a socket path of {length} bytes; the system takes 107",
            common.socket_dir.display()
        ));
    }
    problems
}

fn probes(common: &Common<'_>) -> Option<String> {
    let least = (2 * common.write_probe_interval).max(Duration::from_secs(1));
    (common.hung_after < least).then(|| {
        format!(
            "{}.hung_after is {}, less than {} (1s, and 2 × write_probe_interval {}): one \
             slow probe would count as a hang",
            common.section,
            show_duration(common.hung_after),
            show_duration(least),
            show_duration(common.write_probe_interval)
        )
    })
}

fn local_problems(config: &Config, local: &local::Settings) -> Vec<String> {
    let mut broken = odd(&[
        ("database.local.listen", &local.listen),
        ("database.local.host", &config.address.host),
        ("database.local.superuser", &local.superuser),
        ("database.local.database", &local.database),
        ("database.local.replication_user", &local.replication_user),
    ]);
    let own = |name: &String| name.eq_ignore_ascii_case("synchronous_standby_names");
    if config.policy.synchronous != SynchronousMode::Off && local.parameters.keys().any(own) {
        broken.push(format!(
            "synchronous.mode is {} and database.local.parameters sets synchronous_standby_names: the \
             agent sets it itself; remove one of the two",
            config.policy.synchronous.name()
        ));
    }
    let weak = ["local", "off", "remote_write"];
    let weakens = |(name, value): (&String, &String)| {
        name.eq_ignore_ascii_case("synchronous_commit") && weak.contains(&value.trim())
    };
    if config.policy.synchronous != SynchronousMode::Off && local.parameters.iter().any(weakens) {
        broken.push(format!(
            "synchronous.mode is {} and database.local.parameters sets synchronous_commit to what waits for \
             no standby's disk; use on or remote_apply, or leave it out",
            config.policy.synchronous.name()
        ));
    }
    broken
}

/// Calls shorter than this fail by scheduling alone; a fence cannot wait for longer ones.
const API_TIMEOUT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(30)];

fn cnpg_problems(config: &Config, cnpg: &cnpg::Settings) -> Vec<String> {
    let access = &cnpg.access;
    let mut broken = odd(&[("database.cnpg.host", &config.address.host)]);
    let names = [
        ("database.cnpg.cluster", Some(&access.cluster).filter(|name| !name.is_empty())),
        ("database.cnpg.namespace", access.namespace.as_ref()),
    ];
    let good = |name: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let ends = [name.chars().next(), name.chars().last()];
        let whole = ends.iter().flatten().all(|c| c.is_ascii_alphanumeric());
        (1..=63).contains(&name.len()) && whole && name.chars().all(allowed)
    };
    broken.extend(names.iter().filter_map(|(path, name)| {
        let name = name.filter(|name| !good(name))?;
        Some(format!(
            "{path} is {name:?}, expected a name of Kubernetes: a-z, 0-9 and '-', at most 63"
        ))
    }));
    if let Some(instance) = &cnpg.instance {
        if instance != config.member.as_str() {
            broken.push(format!(
                "database.cnpg.instance is {instance:?} and member is {}: an instance that is a member has its \
                 pod's name; make them equal, or leave it out where the member is a site",
                config.member
            ));
        }
        if config.policy.site.is_none() {
            broken.push(
                "site is missing; with database.cnpg.instance it has to be the Cluster's spec.replica.self"
                    .to_owned(),
            );
        }
    }
    if let Some(url) = &access.url
        && !["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
    {
        broken.push(format!(
            "database.cnpg.api is {url:?}, expected a URL as in https://kubernetes.example:6443"
        ));
    }
    let [least, most] = API_TIMEOUT;
    if access.timeout < least || access.timeout > most {
        let [timeout, least, most] = [access.timeout, least, most].map(show_duration);
        broken.push(format!(
            "database.cnpg.api_timeout is {timeout}; it has to be {least} to {most}"
        ));
    }
    if config.policy.synchronous != SynchronousMode::Off {
        broken.push(format!(
            "synchronous.mode is {} and database.kind is cnpg: for whom commits wait is set by CloudNativePG \
             (spec.postgresql.synchronous); set synchronous.mode = \"off\"",
            config.policy.synchronous.name()
        ));
    }
    broken
}

fn odd(texts: &[(&str, &String)]) -> Vec<String> {
    let odd = |text: &str| text.trim().is_empty() || text.contains(char::is_control);
    texts
        .iter()
        .filter(|(_, text)| odd(text))
        .map(|(path, text)| format!("{path} is {text:?}, expected a text that is not empty"))
        .collect()
}
