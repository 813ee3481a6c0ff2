//! The control file, as `pg_controldata` prints it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::outcome::{Failure, Step};
use super::place::Place;
use crate::core::ids::{Lsn, SystemId, TimelineId};

/// State of a data directory that nobody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::database) enum ClusterState {
    /// A primary, shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// A primary that stopped without a shutdown, in whatever phase.
    Primary,
    /// A standby that stopped without a shutdown.
    Recovery,
}

/// What the control file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::database) struct Control {
    pub(in crate::database) system: SystemId,
    pub(in crate::database) state: ClusterState,
    /// The latest timeline it knows of.
    pub(in crate::database) timeline: TimelineId,
    /// Location of the latest checkpoint.
    pub(in crate::database) checkpoint: Lsn,
    /// Where recovery has to get at least.
    pub(in crate::database) minimum: Lsn,
}

impl Control {
    /// It was last a standby.
    pub(in crate::database) fn in_recovery(&self) -> bool {
        match self.state {
            ClusterState::ShutDownInRecovery | ClusterState::Recovery => true,
            ClusterState::ShutDown | ClusterState::Primary => false,
        }
    }

    /// It was shut down properly, as what it was.
    pub(in crate::database) fn is_clean(&self) -> bool {
        match self.state {
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery => true,
            ClusterState::Primary | ClusterState::Recovery => false,
        }
    }

    /// End of the log as far as this file knows: a lower bound unless [`ClusterState::ShutDown`].
    pub(in crate::database) fn end(&self) -> Lsn {
        self.checkpoint.max(self.minimum)
    }

    /// Reads what `pg_controldata` printed in English. It exits with 0 however damaged the file is, and
    /// only warns: on its output, from version 18 on with its errors.
    pub(in crate::database) fn parse(text: &str, errors: &str) -> Result<Self, String> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .ok_or_else(|| format!("pg_controldata printed no {name:?}"))
        };
        let warns = |line: &&str| line.to_ascii_lowercase().contains("warning:");
        if let Some(warning) = text.lines().chain(errors.lines()).find(warns) {
            return Err(format!("the control file is damaged: {}", warning.trim()));
        }
        let lsn = |name: &str| field(name)?.parse::<Lsn>().map_err(|error| error.to_string());
        let timeline = |name: &str| {
            let text = field(name)?;
            text.parse::<u32>().map_err(|_| format!("{name:?} is not a number: {text:?}"))
        };
        let minimum_timeline = timeline("Min recovery ending loc's timeline")?;
        Ok(Self {
            system: field("Database system identifier")?
                .parse()
                .map_err(|error: crate::core::ids::InvalidId| error.to_string())?,
            state: state(field("Database cluster state")?)?,
            timeline: TimelineId(timeline("Latest checkpoint's TimeLineID")?.max(minimum_timeline)),
            checkpoint: lsn("Latest checkpoint location")?,
            minimum: lsn("Minimum recovery ending location")?,
        })
    }
}

fn state(text: &str) -> Result<ClusterState, String> {
    match text {
        "shut down" => Ok(ClusterState::ShutDown),
        "shut down in recovery" => Ok(ClusterState::ShutDownInRecovery),
        "in archive recovery" => Ok(ClusterState::Recovery),
        "starting up" | "shutting down" | "in crash recovery" | "in production" => {
            Ok(ClusterState::Primary)
        }
        other => Err(format!("the control file's state {other:?} is not one PostgreSQL has")),
    }
}

/// Inode, size and times of the control file: as long as they stay, so does its content.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// Reads control files, but only when they changed.
#[derive(Debug, Default)]
pub(in crate::database) struct ControlReader {
    last: Mutex<Option<(Stamp, Result<Control, String>)>>,
}

impl ControlReader {
    /// What the control file of the instance says now.
    pub(in crate::database) async fn read(
        &self,
        place: &Place,
        cancel: &CancellationToken,
    ) -> Step<Control> {
        let path = place.data_dir().join("global/pg_control");
        let meta =
            std::fs::metadata(&path).map_err(|error| Failure::file("read", &path, &error))?;
        let stamp = (
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        if let Some((known, result)) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && *known == stamp
        {
            return result.clone().map_err(Failure::Refused);
        }
        let result = read(place, place.data_dir(), cancel).await?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, result.clone()));
        result.map_err(Failure::Refused)
    }
}

async fn read(
    place: &Place,
    data_dir: &Path,
    cancel: &CancellationToken,
) -> Step<Result<Control, String>> {
    let finished = place.tool("pg_controldata").arg("-D").arg(data_dir).run(cancel).await?;
    if !finished.status.success() {
        let words = super::tool::last_lines(&finished.stderr, 3);
        return Ok(Err(format!("pg_controldata failed: {words}")));
    }
    Ok(Control::parse(&finished.stdout, &finished.stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Database system identifier:           7411111111111111111
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
";

    #[test]
    fn reads_what_pg_controldata_prints() {
        let control = Control::parse(PRINTED, "").unwrap();
        assert_eq!(control.system, SystemId(7_411_111_111_111_111_111));
        assert_eq!(control.state, ClusterState::ShutDown);
        assert_eq!((control.timeline, control.end()), (TimelineId(2), Lsn(0x300_0028)));
    }

    #[test]
    fn a_damaged_or_foreign_text_is_an_error() {
        assert!(Control::parse("", "").is_err());
        assert!(Control::parse(&PRINTED.replace("shut down", "asleep"), "").is_err());
        let damaged = format!("WARNING: Calculated CRC checksum does not match value\n{PRINTED}");
        assert!(Control::parse(&damaged, "").is_err());
        let since_18 = "pg_controldata: warning: calculated CRC checksum does not match value\n";
        assert!(Control::parse(PRINTED, since_18).is_err());
    }
}
