//! The one question asked all the time, and its answer.

use tokio_postgres::{Row, Statement};

use super::conninfo::parse_conninfo;
use super::place::Place;
use super::sql::{Session, Trouble};
use crate::core::ids::{Lsn, SystemId, TimelineId};

/// Reads server memory only, so that it is quick however busy the server is. In recovery, the functions
/// of a primary raise errors and the other way round, hence the cases.
const QUESTION: &str = "
select pg_is_in_recovery(),
  (select system_identifier::text from pg_control_system()),
  case when pg_is_in_recovery() then null
       else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
  (select greatest(c.timeline_id, r.min_recovery_end_timeline, w.received_tli)
     from pg_control_checkpoint() c, pg_control_recovery() r
     left join pg_stat_wal_receiver w on true),
  case when pg_is_in_recovery() then null else pg_current_wal_flush_lsn()::text end,
  pg_last_wal_receive_lsn()::text,
  pg_last_wal_replay_lsn()::text,
  coalesce((select status = 'streaming' from pg_stat_wal_receiver), false),
  current_setting('primary_conninfo'),
  array(select application_name || ' ' || flush_lsn from pg_stat_replication
         where flush_lsn is not null and state in ('streaming', 'catchup') order by 1)";

/// What the server said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) struct Seen {
    pub(in crate::database) in_recovery: bool,
    pub(in crate::database) system: Option<SystemId>,
    pub(in crate::database) timeline: TimelineId,
    pub(in crate::database) lsn: Lsn,
    pub(in crate::database) replayed: Lsn,
    pub(in crate::database) streaming: bool,
    pub(in crate::database) conninfo: String,
    pub(in crate::database) upstream: Option<(String, u16)>,
    pub(in crate::database) standbys: Vec<(String, Lsn)>,
}

/// A session with the question prepared.
#[derive(Debug)]
pub(in crate::database) struct Asker {
    pub(in crate::database) session: Session,
    question: Statement,
}

impl Asker {
    /// Connects and prepares.
    pub(in crate::database) async fn open(place: &Place) -> Result<Self, Trouble> {
        let session = Session::open(place).await?;
        let question = session.client.prepare(QUESTION).await?;
        Ok(Self { session, question })
    }

    /// Asks.
    pub(in crate::database) async fn ask(&self) -> Result<Seen, Trouble> {
        let row = self.session.client.query_one(&self.question, &[]).await?;
        Ok(read(&row)?)
    }
}

fn read(row: &Row) -> Result<Seen, tokio_postgres::Error> {
    let lsn = |column: usize| -> Result<Lsn, tokio_postgres::Error> {
        let text: Option<&str> = row.try_get(column)?;
        Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
    };
    let in_recovery: bool = row.try_get(0)?;
    let system: Option<&str> = row.try_get(1)?;
    let current: Option<&str> = row.try_get(2)?;
    let known: Option<i32> = row.try_get(3)?;
    let current = current.and_then(timeline);
    let known = known.and_then(|known| u32::try_from(known).ok()).unwrap_or(0);
    let (flushed, received, replayed) = (lsn(4)?, lsn(5)?, lsn(6)?);
    let conninfo: String = row.try_get(8)?;
    let standbys: Vec<String> = row.try_get(9)?;
    Ok(Seen {
        in_recovery,
        system: system.and_then(|text| text.parse().ok()),
        timeline: TimelineId(current.unwrap_or(known)),
        lsn: if in_recovery { received.max(replayed) } else { flushed },
        replayed: if in_recovery { replayed } else { flushed },
        streaming: in_recovery && row.try_get(7)?,
        upstream: if in_recovery { parse_conninfo(&conninfo) } else { None },
        conninfo,
        standbys: standbys.iter().filter_map(|line| standby(line)).collect(),
    })
}

/// The timeline that the name of a WAL file begins with.
pub(in crate::database) fn timeline(digits: &str) -> Option<u32> {
    u32::from_str_radix(digits, 16).ok()
}

/// A standby's name and flushed position.
pub(in crate::database) fn standby(line: &str) -> Option<(String, Lsn)> {
    let (name, lsn) = line.rsplit_once(' ')?;
    Some((name.to_owned(), lsn.parse().ok()?))
}
