//! Timelines: what their history files say, and the checkpoint that goes with a change of them.

use std::fs;

use tokio_util::sync::CancellationToken;

use super::Server;
use super::outcome::{Failure, Step};
use super::sql::{Session, Trouble};
use crate::core::event::Done;
use crate::core::ids::{Lsn, TimelineId};

/// Where `timeline` began, as its history file says.
pub(in crate::database) fn began_at(server: &Server, timeline: TimelineId) -> Option<Lsn> {
    let path = server.place.data_dir().join(format!("pg_wal/{:08X}.history", timeline.0));
    let text = fs::read_to_string(path).ok()?;
    history(&text).last().map(|&(_, end)| end)
}

/// Reads a timeline history file: each timeline passed and where it was left.
pub(in crate::database) fn history(text: &str) -> Vec<(TimelineId, Lsn)> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let timeline = fields.next()?.parse().ok()?;
        Some((TimelineId(timeline), fields.next()?.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(entry).collect()
}

/// Writes dirty pages out.
pub(in crate::database) async fn checkpoint(
    server: &Server,
    cancel: &CancellationToken,
) -> Step<Done> {
    let done = async {
        let session = Session::open(&server.place).await?;
        session.client.batch_execute("checkpoint").await.map_err(Trouble::from)
    };
    tokio::select! {
        done = done => match done {
            Ok(()) => Ok(Done::Done),
            Err(trouble @ Trouble::Lost(_)) => Err(Failure::Unknown(trouble.to_string())),
            Err(trouble) => Err(Failure::Refused(trouble.to_string())),
        },
        () = cancel.cancelled() => Err(Failure::Cancelled),
    }
}
