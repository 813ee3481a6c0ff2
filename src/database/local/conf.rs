//! The settings the agent enforces, in a file of their own beside the user's.
//!
//! `postgresql.conf` stays the user's; one line at its end includes `harmony.conf`, which is ours and
//! wins over what comes before it. Only `postgresql.auto.conf` (ALTER SYSTEM) would win over ours, so
//! settings we own are taken out of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::Place;
use super::require;
use super::{Settings, SetupError};
use crate::core::event::Upstream;
use crate::database::server::outcome::{Failure, Step};

const FILE: &str = "harmony.conf";

const INCLUDE: &str = "\n# Added by harmony-agent: its settings, which win over those above.\n\
                       include_if_exists = 'harmony.conf'\n";

/// Settings that `parameters` must not name: the agent could not do its work.
const OWN: [&str; 13] = [
    "cluster_name",
    "data_directory",
    "hot_standby",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "promote_trigger_file",
    "recovery_target_timeline",
    "restart_after_crash",
    "standby_mode",
    "unix_socket_directories",
    "wal_keep_segments",
    "wal_keep_size",
];

/// Refuses parameters that are the agent's own or could not be written.
pub(super) fn check(settings: &Settings) -> Result<(), SetupError> {
    for (name, value) in &settings.parameters {
        let refuse = |rule| SetupError::Parameter { name: name.clone(), rule };
        if OWN.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(refuse("the agent sets it itself: remove it"));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(good) {
            return Err(refuse("a setting's name is made of letters, digits, '_' and '.'"));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(refuse("its value must be one line"));
        }
    }
    Ok(())
}

/// Writes everything that the server in `dir` reads at its start.
pub(super) fn write(place: &Place, dir: &Path, upstream: Option<&Upstream>) -> Step<()> {
    include(dir)?;
    let settings = all(place, upstream)?;
    strip_auto(place, dir, &settings)?;
    place.write(&dir.join(FILE), &render(&settings), 0o600)
}

/// Rewrites our file under a running server, which then has to be told.
pub(super) fn rewrite(place: &Place, upstream: Option<&Upstream>) -> Step<()> {
    include(place.data_dir())?;
    let settings = all(place, upstream)?;
    place.write(&place.data_dir().join(FILE), &render(&settings), 0o600)
}

/// Changes settings in our file under a running server, which then has to be told. `None`: not ours.
pub(super) fn set(place: &Place, settings: &[(&str, Option<String>)]) -> Step<()> {
    include(place.data_dir())?;
    let path = place.data_dir().join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::file("read", &path, &error)),
    };
    let ours = |line: &str| {
        let name = line.split(['=', ' ']).next().unwrap_or_default();
        settings.iter().any(|(setting, _)| *setting == name)
    };
    let mut kept = String::new();
    for line in text.lines().filter(|line| !ours(line)) {
        let _ = writeln!(kept, "{line}");
    }
    for (name, value) in settings {
        if let Some(value) = value {
            let _ = writeln!(kept, "{}", assignment(name, value));
        }
    }
    place.write(&path, &kept, 0o600)
}

/// A setting's value in our file, as [`set`] and [`render`] write it.
pub(super) fn value(place: &Place, name: &str) -> Step<Option<String>> {
    let path = place.data_dir().join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("read", &path, &error)),
    };
    let of = |line: &str| {
        let value = line.strip_prefix(name)?.strip_prefix(" = '")?.strip_suffix('\'')?;
        Some(value.replace("''", "'").replace("\\\\", "\\"))
    };
    Ok(text.lines().find_map(of))
}

/// Whether ALTER SYSTEM has set `name`, which would win over our file.
pub(super) fn is_altered(place: &Place, name: &str) -> bool {
    let path = place.data_dir().join("postgresql.auto.conf");
    let named = |line: &str| line.split(['=', ' ', '\t']).next() == Some(name);
    fs::read_to_string(path).is_ok_and(|text| text.lines().any(named))
}

/// The text that `primary_conninfo` has when following `upstream`; empty without one.
pub(super) fn conninfo(place: &Place, upstream: Option<&Upstream>) -> Step<String> {
    let Some(upstream) = upstream else { return Ok(String::new()) };
    let mut text = source(place, upstream)?;
    let member = quote(place.settings.member.as_str());
    // Short, so that a dead upstream is noticed; a failover re-points the standby in any case.
    let _ = write!(
        text,
        " application_name={member} connect_timeout=2 keepalives=1 keepalives_idle=1 \
         keepalives_interval=1 keepalives_count=3 tcp_user_timeout=3000"
    );
    Ok(text)
}

/// Connection string of the replication user to `upstream`; writes the password file it names.
pub(super) fn source(place: &Place, upstream: &Upstream) -> Step<String> {
    let settings = &place.settings;
    let mut text = format!(
        "host={} port={} user={}",
        quote(&upstream.address.host),
        upstream.address.port,
        quote(&settings.replication_user)
    );
    if let Some(password) = password(settings)? {
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let line = format!("*:*:*:{}:{}\n", escape(&settings.replication_user), escape(&password));
        place.make_beside()?;
        place.write(&place.passfile(), &line, 0o600)?;
        let _ = write!(text, " passfile={}", quote(&place.passfile().to_string_lossy()));
    }
    Ok(text)
}

/// The replication user's password; none when the servers trust it.
pub(super) fn password(settings: &Settings) -> Step<Option<String>> {
    let Some(path) = &settings.replication_password_file else { return Ok(None) };
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::file("read the replication password from", path, &error))?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() || password.contains(['\n', '\0']) {
        return Err(Failure::Refused(format!(
            "{} must hold one line with the replication password",
            path.display()
        )));
    }
    Ok(Some(password.to_owned()))
}

fn all(place: &Place, upstream: Option<&Upstream>) -> Step<BTreeMap<String, String>> {
    let settings = &place.settings;
    let own = [
        ("cluster_name", settings.member.to_string()),
        ("hot_standby", "on".to_owned()),
        ("listen_addresses", settings.listen.clone()),
        ("port", settings.port.to_string()),
        ("primary_conninfo", conninfo(place, upstream)?),
        ("recovery_target_timeline", "latest".to_owned()),
        // After a crash it is the agent's turn to decide: another member may have taken over.
        ("restart_after_crash", "off".to_owned()),
        ("unix_socket_directories", settings.socket_dir.to_string_lossy().into_owned()),
        ("wal_keep_size", format!("{}MB", settings.wal_keep_mib)),
    ];
    let defaults = [
        ("max_replication_slots", "10"),
        ("max_wal_senders", "10"),
        ("wal_level", "replica"),
        // What pg_rewind needs, also when checksums are off.
        ("wal_log_hints", "on"),
        ("wal_receiver_timeout", "5s"),
        ("wal_retrieve_retry_interval", "200ms"),
        ("wal_sender_timeout", "5s"),
    ];
    let mut all: BTreeMap<String, String> =
        defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    all.extend(settings.parameters.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())));
    all.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if let Some(names) = require::value(place)? {
        all.insert("synchronous_standby_names".to_owned(), names);
    }
    Ok(all)
}

pub(super) fn render(settings: &BTreeMap<String, String>) -> String {
    let mut text =
        "# Written by harmony-agent at every start; changes made here are lost.\n".to_owned();
    for (name, value) in settings {
        let _ = writeln!(text, "{}", assignment(name, value));
    }
    text
}

fn assignment(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A value of a connection string, quoted.
pub(super) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Adds our include line to `postgresql.conf`, once.
fn include(dir: &Path) -> Step<()> {
    let path = dir.join("postgresql.conf");
    let text = fs::read_to_string(&path).map_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return Failure::file("read", &path, &error);
        }
        Failure::Refused(format!(
            "{} does not exist: the agent wants the configuration in the data directory; move it there",
            path.display()
        ))
    })?;
    let included =
        |line: &str| line.trim_start().starts_with("include_if_exists") && line.contains(FILE);
    if text.lines().any(included) {
        return Ok(());
    }
    OpenOptions::new()
        .append(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .and_then(|mut file| file.write_all(INCLUDE.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| {
            Failure::file("add `include_if_exists = 'harmony.conf'` to", &path, &error)
        })
}

/// Takes settings that are ours out of `postgresql.auto.conf` of a stopped server.
fn strip_auto(place: &Place, dir: &Path, settings: &BTreeMap<String, String>) -> Step<()> {
    let path = dir.join("postgresql.auto.conf");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file("read", &path, &error)),
    };
    let ours = |line: &&str| {
        let name = line.split(['=', ' ', '\t']).next().unwrap_or_default();
        settings.contains_key(&name.to_ascii_lowercase())
    };
    let Some(first) = text.lines().find(ours) else { return Ok(()) };
    let name = first.split(['=', ' ', '\t']).next().unwrap_or_default();
    tracing::warn!(setting = name, "taking settings the agent owns out of postgresql.auto.conf");
    let mut kept = String::new();
    for line in text.lines().filter(|line| !ours(line)) {
        let _ = writeln!(kept, "{line}");
    }
    place.write(&path, &kept, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let settings = BTreeMap::from([("a".to_owned(), r"it's \n".to_owned())]);
        assert!(render(&settings).ends_with("a = 'it''s \\\\n'\n"));
        assert_eq!(quote(r"it's"), r"'it\'s'");
    }
}
