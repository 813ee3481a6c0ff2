//! Making a new cluster.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Place;
use super::Shared;
use super::conf;
use crate::core::event::Done;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::wait::{Found, find};

/// Makes a new cluster where there is nothing. Complete before it gets its name.
pub(super) async fn bootstrap(shared: &Arc<Shared>, cancel: &CancellationToken) -> Step<Done> {
    match find(shared, cancel).await? {
        Found::Absent => {}
        Found::Stopped { .. } | Found::Running => {
            return Err(Failure::Refused(
                "there is a database already: nothing was touched".to_owned(),
            ));
        }
    }
    let files = Arc::clone(shared);
    let target = blocking(move || prepare(&files.place)).await?;
    shared
        .place
        .tool("initdb")
        .arg("--pgdata")
        .arg(&target)
        .arg("--username")
        .arg(&shared.place.settings.superuser)
        // Other collations change with the C library: indexes would differ from member to member.
        .args(["--encoding=UTF8", "--no-locale", "--data-checksums"])
        .args(["--auth-local=peer", "--auth-host=scram-sha-256"])
        .succeed(cancel)
        .await?;
    let (files, dir) = (Arc::clone(shared), target.clone());
    let password = blocking(move || {
        configure(&files.place, &dir)?;
        conf::password(&files.place.settings)
    })
    .await?;
    make_roles(&shared.place, &target, password, cancel).await?;
    let files = Arc::clone(shared);
    blocking(move || files.place.rename(&target, files.place.data_dir())).await?;
    Ok(Done::Done)
}

fn prepare(place: &Place) -> Step<PathBuf> {
    let aside: Vec<PathBuf> =
        place.set_aside()?.into_iter().chain(place.left_over(&["rewind-"])?).collect();
    if let Some(aside) = aside.first() {
        return Err(Failure::Refused(format!(
            "{} is data of an earlier cluster: a new one is not begun beside it; move it away if it is not needed",
            aside.display()
        )));
    }
    place.sweep()?;
    place.fresh("init")
}

fn configure(place: &Place, dir: &Path) -> Step<()> {
    conf::write(place, dir, None)?;
    let settings = &place.settings;
    let mut map = "";
    if place.account.name != settings.superuser {
        map = " map=harmony";
        let line =
            format!("harmony {} {}\n", quote(&place.account.name), quote(&settings.superuser));
        place.write(&dir.join("pg_ident.conf"), &line, 0o600)?;
    }
    let (superuser, user) = (quote(&settings.superuser), quote(&settings.replication_user));
    let database = quote(&settings.database);
    let mut text = format!(
        "# Begun by harmony-agent; yours from now on. Standbys need the lines of {user}.\n\
         local all {superuser} peer{map}\n\
         local all all peer\n"
    );
    let (method, from): (_, &[&str]) = match settings.replication_password_file {
        Some(_) => ("scram-sha-256", &["all"]),
        None => ("trust", &["127.0.0.1/32", "::1/128"]),
    };
    for address in from {
        let _ = writeln!(text, "host replication {user} {address} {method}");
        let _ = writeln!(text, "host {database} {user} {address} {method}");
    }
    text.push_str("host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n");
    place.write(&dir.join("pg_hba.conf"), &text, 0o600)
}

/// Makes the replication user, with what pg_rewind and the rejoin of others ask as that user.
async fn make_roles(
    place: &Place,
    dir: &Path,
    password: Option<String>,
    cancel: &CancellationToken,
) -> Step<()> {
    let settings = &place.settings;
    let user = quote(&settings.replication_user);
    let secret = match &password {
        Some(password) => format!("password '{}'", password.replace('\'', "''")),
        None => "password null".to_owned(),
    };
    let make = if settings.replication_user == settings.superuser { "alter" } else { "create" };
    let mut cluster = format!("{make} role {user} login replication {secret}\n");
    if place.major >= 15 {
        let _ = writeln!(cluster, "grant pg_checkpoint to {user}");
    }
    if !["postgres", "template1"].contains(&settings.database.as_str()) {
        let _ = writeln!(cluster, "create database {}", quote(&settings.database));
    }
    single(place, dir, "postgres", cluster, password, cancel).await?;
    let rewind = format!(
        "grant execute on function pg_catalog.pg_ls_dir(text, boolean, boolean), \
         pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text), \
         pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) to {user}\n"
    );
    single(place, dir, &settings.database, rewind, None, cancel).await
}

/// Runs statements, one a line, in a server that nobody else can reach.
async fn single(
    place: &Place,
    dir: &Path,
    database: &str,
    statements: String,
    secret: Option<String>,
    cancel: &CancellationToken,
) -> Step<()> {
    place
        .tool("postgres")
        .arg("--single")
        .arg("-D")
        .arg(dir)
        .args(["-c", "exit_on_error=on", "-c", "log_statement=none"])
        .args(["-c", "log_min_error_statement=panic", "-c", "logging_collector=off"])
        .arg(database)
        .input(statements)
        .redact(secret)
        .succeed(cancel)
        .await
        .map(|_| ())
}

/// An identifier of SQL or of pg_hba.conf.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
