//! The server to copy from: who it is, and which timelines it came along.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Place;
use super::conf;
use crate::core::event::Upstream;
use crate::core::ids::{Lsn, SystemId, TimelineId};
use crate::database::server::outcome::{Failure, Step};
use crate::database::server::sql::{Session, Trouble};
use crate::database::server::timeline::history;
use crate::database::server::wait::pause;

/// How long a connection to another member may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How often the control file of the source is asked whether its promotion reached it.
const POLL: Duration = Duration::from_millis(50);

/// A server to copy from.
#[derive(Debug)]
pub(super) struct Source {
    session: Session,
    pub(super) system: SystemId,
    pub(super) timeline: TimelineId,
    in_recovery: bool,
    /// Ends of the timelines before the current one.
    pub(super) history: Vec<(TimelineId, Lsn)>,
}

impl Source {
    /// Connects to `upstream` as the replication user. Anything in the way is a refusal.
    pub(super) async fn connect(
        place: &Place,
        upstream: &Upstream,
        cancel: &CancellationToken,
    ) -> Step<Self> {
        let asked = async {
            let settings = &place.settings;
            let password = conf::password(settings)?;
            let (host, port) = (&upstream.address.host, upstream.address.port);
            let refused = |trouble: Trouble| {
                let user = &settings.replication_user;
                Failure::Refused(format!(
                    "cannot ask {} at {host}:{port} as {user:?}: {trouble}",
                    upstream.member
                ))
            };
            let session = Session::remote(
                host,
                port,
                &settings.replication_user,
                password.as_deref(),
                &settings.database,
                CONNECT,
            )
            .await
            .map_err(refused)?;
            Self::ask(session).await.map_err(refused)
        };
        tokio::select! {
            source = asked => source,
            () = cancel.cancelled() => Err(Failure::Cancelled),
        }
    }

    async fn ask(session: Session) -> Result<Self, Trouble> {
        let row = session
            .client
            .query_one(
                "select (select system_identifier::text from pg_control_system()), pg_is_in_recovery(),
                   case when pg_is_in_recovery()
                        then (select left(max(name), 8) from pg_ls_dir('pg_wal', true, false) name
                              where name ~ '^[0-9A-F]{8}\\.history$')
                        else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
                   (select timeline_id from pg_control_checkpoint())",
                &[],
            )
            .await?;
        let system: &str = row.try_get(0)?;
        let system = system.parse().map_err(|error| Trouble::Answered(format!("{error}")))?;
        let current: Option<&str> = row.try_get(2)?;
        let known: i32 = row.try_get(3)?;
        let current = current.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        // A standby's control file names an older timeline until its next restartpoint; the history of the
        // one that it is on came with it, or is its own new one when it is being promoted.
        let timeline = TimelineId(current.unwrap_or_default().max(known.unsigned_abs()));
        let mut source =
            Self { system, timeline, in_recovery: row.try_get(1)?, history: Vec::new(), session };
        if timeline.0 > 1 {
            source.history = source.read_history().await?;
        }
        Ok(source)
    }

    async fn read_history(&self) -> Result<Vec<(TimelineId, Lsn)>, Trouble> {
        let path = format!("pg_wal/{:08X}.history", self.timeline.0);
        let row = self.session.client.query_one("select pg_read_binary_file($1)", &[&path]).await?;
        let bytes: &[u8] = row.try_get(0)?;
        Ok(history(&String::from_utf8_lossy(bytes)))
    }

    /// Waits until the source's control file names its timeline: pg_rewind reads it from there, and
    /// after a promotion it is the old one until the next checkpoint.
    pub(super) async fn settled(&self, cancel: &CancellationToken) -> Step<()> {
        if self.in_recovery {
            return Ok(());
        }
        let mut asked_for = false;
        loop {
            let sql = "select timeline_id from pg_control_checkpoint()";
            let row = tokio::select! {
                row = self.session.client.query_one(sql, &[]) => row,
                () = cancel.cancelled() => return Err(Failure::Cancelled),
            };
            let known: Result<i32, _> = row.and_then(|row| row.try_get(0));
            let known =
                known.map_err(|error| Failure::Refused(Trouble::from(error).to_string()))?;
            if known.unsigned_abs() >= self.timeline.0 {
                return Ok(());
            }
            if !asked_for {
                asked_for = true;
                // Allowed from version 15 on, to members of pg_checkpoint; else it comes by itself.
                let checkpoint = self.session.client.batch_execute("checkpoint");
                if let Err(error) = checkpoint.await {
                    tracing::debug!(%error, "the source does not let us ask for a checkpoint");
                }
            }
            pause(POLL, cancel).await?;
        }
    }
}
