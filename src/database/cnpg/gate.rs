//! The boot gate: the sidecar's startup probe keeps PostgreSQL's container from starting until it may.

use std::time::Duration;

use super::Shared;
use super::mark;
use super::part::{Comes, Want, comes_up};

/// A Cluster read longer ago says nothing about a fence that others may lift.
const FRESH: Duration = Duration::from_secs(10);

/// Why PostgreSQL must not be started now, if so. Asked by a probe every second: reads files.
pub(super) fn held_back(shared: &Shared) -> Option<String> {
    let part = &shared.part;
    if matches!(part.want(), Want::Open | Want::Free | Want::Standby) {
        return None;
    }
    let read = shared.last_read().filter(|read| read.at.elapsed() <= FRESH);
    let cluster = read.as_ref().map(|read| read.cluster.as_ref());
    let comes = comes_up(part.data(), cluster, &shared.us);
    if cluster.is_some_and(|cluster| mark::covers(cluster, &shared.us)) {
        return None;
    }
    // Only its manager makes a standby of it, and what starts before that does not get the port.
    if cluster.is_some_and(|cluster| shared.us.is_passed_over(cluster)) && part.holds() {
        return None;
    }
    match comes {
        Comes::Nothing | Comes::Standby => None,
        Comes::Primary => Some(
            "it would come up as a primary, which the lease does not allow yet, and is not fenced"
                .to_owned(),
        ),
        Comes::Unknown => Some(
            "the API server has not said yet whether the site is a replica or is to be promoted"
                .to_owned(),
        ),
    }
}
