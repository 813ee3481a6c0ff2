//! Synchronous replication: having the server wait for standbys, and knowing that it does.
//!
//! `synchronous_standby_names` takes effect in each process for itself. Whether commits wait at all is
//! told to everybody by the checkpointer; for whom, every sender decides. A reload that our own session
//! has seen says nothing of either, hence the proofs below.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Place;
use super::Shared;
use super::conf;
use crate::core::event::Done;
use crate::core::ids::{Lsn, MemberId};
use crate::core::synchronous::Requirement;
use crate::database::server::outcome::{Failure, Step, blocking};
use crate::database::server::sql::Trouble;
use crate::database::server::wait::{Found, find, wait};

const SETTING: &str = "synchronous_standby_names";

/// What commits wait for.
const COMMIT: &str = "synchronous_commit";

/// A setting of our own, to see that a reload has happened.
const RELOADED: &str = "harmony.reloaded";

/// A name that no standby of ours has: names of members have no colon.
const NOBODY: &str = "harmony:nobody";

/// Between looks for an effect.
const POLL: Duration = Duration::from_millis(2);

/// What the server is asked while it takes a requirement in.
const PRIORITIES: &str = "
select array(select application_name || ' ' || sync_priority from pg_stat_replication
              where state in ('streaming', 'catchup')),
       case when pg_is_in_recovery() then null else pg_current_wal_flush_lsn()::text end";

/// The last word of the server's files on a setting.
const CONFIGURED: &str = "
select setting from pg_file_settings where lower(name) = $1 order by seqno desc limit 1";

/// A little to write: a sender looks anew at who may be acknowledged when a standby replies, and that has
/// nothing to reply to while every commit waits.
const NUDGE: &str = "select pg_logical_emit_message(true, 'harmony', 'required')";

/// The file that keeps the setting's value: beside the data directory, so that no clone and no rewind
/// brings another server's.
fn file(place: &Place) -> PathBuf {
    place.beside().join("synchronous_standby_names")
}

/// The value to be in effect at the next start; `None`: the agent does not set it.
pub(super) fn value(place: &Place) -> Step<Option<String>> {
    let path = file(place);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("read", &path, &error)),
    }
}

/// The setting's value: everybody named has to confirm. Those who were not named before come first, so
/// that the place of all others changes, by which a sender shows that it knows the new list.
fn render(requirement: &Requirement, before: &[String]) -> Vec<String> {
    match requirement {
        Requirement::Nobody => Vec::new(),
        Requirement::Unsatisfiable => vec![NOBODY.to_owned()],
        Requirement::Withheld(members) => {
            let others = render(&Requirement::All(members.clone()), before);
            [NOBODY.to_owned()].into_iter().chain(others).collect()
        }
        Requirement::All(members) => {
            let named = |member: &&MemberId| before.iter().any(|name| name == member.as_str());
            let new = members.iter().filter(|member| !named(member));
            let old = before.iter().filter(|name| members.iter().any(|it| it.as_str() == **name));
            new.map(ToString::to_string).chain(old.cloned()).collect()
        }
    }
}

fn text(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("FIRST {} ({})", names.len(), quoted.join(", "))
}

/// The names in a value that [`text`] made.
fn parse(value: &str) -> Vec<String> {
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Has the server acknowledge commits by this requirement only.
pub(super) async fn require(
    shared: &Arc<Shared>,
    requirement: &Requirement,
    cancel: &CancellationToken,
) -> Step<Done> {
    let place = &shared.place;
    if *requirement != Requirement::Nobody {
        let parameters = &place.settings.parameters;
        let own = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(COMMIT));
        waits_for_disks(own.map_or("", |(_, value)| value))?;
    }
    let before = value(place)?;
    let names = render(requirement, &parse(before.as_deref().unwrap_or_default()));
    let wanted = text(&names);
    let found = find(shared, cancel).await?;
    keep(shared, wanted.clone()).await?;
    let done = apply(shared, found, &names, &wanted, cancel).await?;
    shared.required.store(!names.is_empty(), Ordering::Relaxed);
    Ok(done)
}

async fn apply(
    shared: &Arc<Shared>,
    found: Found,
    names: &[String],
    wanted: &str,
    cancel: &CancellationToken,
) -> Step<Done> {
    match found {
        Found::Absent | Found::Stopped { .. } => {
            // The next server may have this one's process id.
            *shared.waits.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(Done::Required { lsn: Lsn(0) })
        }
        Found::Running => {
            let (asker, _) = wait(shared, cancel).await?;
            let client = &asker.session.client;
            let told = tell(shared, client, names, wanted);
            tokio::select! {
                told = told => told.map(|lsn| Done::Required { lsn }),
                () = cancel.cancelled() => Err(Failure::Cancelled),
            }
        }
    }
}

/// Writes what holds from the next start on.
async fn keep(shared: &Arc<Shared>, wanted: String) -> Step<()> {
    let shared = Arc::clone(shared);
    shared.required.store(true, Ordering::Relaxed);
    blocking(move || {
        let place = &shared.place;
        if value(place)?.unwrap_or_default() == wanted {
            return Ok(());
        }
        place.make_beside()?;
        place.write(&file(place), &wanted, 0o600)
    })
    .await
}

/// Tells the running server, and returns the end of its own log once it goes by it.
async fn tell(shared: &Arc<Shared>, client: &Client, names: &[String], wanted: &str) -> Step<Lsn> {
    let shown = setting(client, SETTING).await?;
    let pid = shared.running_postmaster();
    let proven = *shared.waits.lock().unwrap_or_else(PoisonError::into_inner);
    let waits = !names.is_empty();
    if waits {
        waits_for_disks(&configured(client, COMMIT).await?)?;
    }
    let known = pid.is_some() && proven == pid;
    let written = conf::value(&shared.place, SETTING)?.unwrap_or_default();
    if shown == wanted && written == wanted && (known || !waits) {
        return senders(client, names).await;
    }
    if conf::is_altered(&shared.place, SETTING) {
        let reset = format!("alter system reset {SETTING}");
        client.batch_execute(&reset).await.map_err(unknown)?;
    }
    // While it is not proven anew, nothing is.
    *shared.waits.lock().unwrap_or_else(PoisonError::into_inner) = None;
    reload(shared, client, wanted).await?;
    if waits {
        // The postmaster hands reloads on one after the other: when the second one is seen, everybody
        // has been told of the first.
        reload(shared, client, wanted).await?;
        if !known {
            // The checkpointer takes a reload in before it begins a checkpoint.
            client.batch_execute("checkpoint").await.map_err(unknown)?;
        }
    }
    let shown = setting(client, SETTING).await?;
    if shown != wanted {
        let dir = shared.place.data_dir().display();
        return Err(Failure::Refused(format!(
            "the server did not take {SETTING} from harmony.conf in {dir}: it is {shown:?}; is it set \
             elsewhere?"
        )));
    }
    let lsn = senders(client, names).await?;
    if lsn > Lsn(0)
        && let Err(error) = client.batch_execute(NUDGE).await
    {
        tracing::warn!(%error, "commits that wait already may wait for up to a second more");
    }
    if waits {
        *shared.waits.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }
    Ok(lsn)
}

/// Has the server read its configuration, and waits until our session has.
async fn reload(shared: &Arc<Shared>, client: &Client, wanted: &str) -> Step<()> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let (files, value, own) = (Arc::clone(shared), wanted.to_owned(), mark.clone());
    blocking(move || {
        let value = Some(value).filter(|value| !value.is_empty());
        conf::set(&files.place, &[(SETTING, value), (RELOADED, Some(own))])
    })
    .await?;
    client.batch_execute("select pg_reload_conf()").await.map_err(unknown)?;
    // Whoever called bounds it in time.
    while setting(client, RELOADED).await? != mark {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits until the senders to those named know their places, and returns the end of the log then.
async fn senders(client: &Client, names: &[String]) -> Step<Lsn> {
    loop {
        let row = client.query_one(PRIORITIES, &[]).await.map_err(unknown)?;
        let senders: Vec<String> = row.try_get(0).map_err(unknown)?;
        let lsn: Option<&str> = row.try_get(1).map_err(unknown)?;
        let place = |name: &str| {
            let found = names.iter().position(|it| it.eq_ignore_ascii_case(name));
            found.map_or(0, |at| at + 1)
        };
        let knows = |sender: &String| {
            sender.rsplit_once(' ').is_none_or(|(name, said)| said == place(name).to_string())
        };
        if senders.iter().all(knows) {
            return Ok(lsn.and_then(|lsn| lsn.parse().ok()).unwrap_or_default());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether commits wait for standbys at all, with this `synchronous_commit`; empty: as PostgreSQL's own.
fn waits_for_disks(commit: &str) -> Step<()> {
    if !["local", "off", "remote_write"].contains(&commit.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{COMMIT} is {commit}: commits would be acknowledged that are on no standby's disk. Take it out of \
         database.local.parameters and postgresql.conf, or set synchronous.mode to off"
    )))
}

/// What the files say of a setting, the last word winning; empty when they do not. Our own sessions have
/// values of their own.
async fn configured(client: &Client, name: &str) -> Step<String> {
    let rows = client.query(CONFIGURED, &[&name]).await.map_err(unknown)?;
    let Some(row) = rows.first() else { return Ok(String::new()) };
    Ok(row.try_get::<_, Option<String>>(0).map_err(unknown)?.unwrap_or_default())
}

async fn setting(client: &Client, name: &str) -> Step<String> {
    let row = client.query_one("select current_setting($1, true)", &[&name]).await;
    let row = row.map_err(unknown)?;
    Ok(row.try_get::<_, Option<String>>(0).map_err(unknown)?.unwrap_or_default())
}

fn unknown(error: tokio_postgres::Error) -> Failure {
    Failure::Unknown(Trouble::from(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_that_wait_for_no_disk_are_not_taken_for_synchronous() {
        for good in ["", "on", "remote_apply"] {
            assert!(waits_for_disks(good).is_ok(), "{good}");
        }
        for bad in ["local", "OFF", " remote_write "] {
            assert!(matches!(waits_for_disks(bad), Err(Failure::Refused(_))), "{bad}");
        }
    }

    #[test]
    fn everybody_named_has_to_confirm_and_those_who_are_new_come_first() {
        let all = |names: &[&str]| {
            Requirement::All(names.iter().map(|name| name.parse().unwrap()).collect())
        };
        let first = render(&all(&["b"]), &[]);
        assert_eq!(text(&first), "FIRST 1 (\"b\")");
        let second = render(&all(&["a", "b", "c"]), &first);
        assert_eq!(text(&second), "FIRST 3 (\"a\", \"c\", \"b\")");
        assert_eq!(parse(&text(&second)), second);
        assert_eq!(text(&render(&all(&["b"]), &second)), "FIRST 1 (\"b\")");
        assert_eq!(text(&render(&Requirement::Nobody, &second)), "");
        let nobody = render(&Requirement::Unsatisfiable, &second);
        assert_eq!(text(&nobody), "FIRST 1 (\"harmony:nobody\")");
        // Every sender's place changes, from nobody to withheld and on to all.
        let withheld = Requirement::Withheld(["b".parse().unwrap()].into());
        let withheld = render(&withheld, &nobody);
        assert_eq!(text(&withheld), "FIRST 2 (\"harmony:nobody\", \"b\")");
        assert_eq!(text(&render(&all(&["b"]), &withheld)), "FIRST 1 (\"b\")");
    }
}
