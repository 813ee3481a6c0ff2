//! The bar: what keeps CloudNativePG, or anybody, from promoting a standby that has no lease.
//!
//! `pg_ctl promote` and `pg_promote()` tell PostgreSQL by a file `promote` in its data directory. As long as a link
//! that leads nowhere has that name, neither can write the file, and PostgreSQL, which follows the link, sees none.
//! So it holds while the agent is frozen or gone, too. PostgreSQL removes it when it starts, and the agent puts it
//! back (ADR 26).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The file that has PostgreSQL promote itself (`PROMOTE_SIGNAL_FILE`).
pub(super) const PROMOTE: &str = "promote";

/// Where the bar leads: nowhere, and it says whose it is.
const NOWHERE: &str = "harmony-agent.no-lease/promote";

/// Its name before it is put: it is moved to its place, so that whoever watches the directory can tell it from the
/// file, which is made there.
const ASIDE: &str = "promote.harmony-agent";

/// Puts the bar, also in the place of a file that PostgreSQL has not seen yet; whether it was put.
///
/// # Errors
/// The data directory cannot be written.
pub(super) fn put(data_dir: &Path) -> io::Result<bool> {
    if is_put(data_dir) {
        return Ok(false);
    }
    let aside = data_dir.join(ASIDE);
    // One that could not be moved before is used.
    if !is_bar(&aside) {
        symlink(NOWHERE, &aside)?;
    }
    fs::rename(aside, data_dir.join(PROMOTE)).map(|()| true)
}

/// Takes the bar away; whether it was there. What else has its name stays.
///
/// # Errors
/// The data directory cannot be written.
pub(super) fn lift(data_dir: &Path) -> io::Result<bool> {
    let place = data_dir.join(PROMOTE);
    if !is_put(data_dir) {
        return Ok(false);
    }
    fs::remove_file(place).map(|()| true)
}

/// The bar is there.
pub(super) fn is_put(data_dir: &Path) -> bool {
    is_bar(&data_dir.join(PROMOTE))
}

fn is_bar(place: &Path) -> bool {
    fs::read_link(place).is_ok_and(|leads| leads == Path::new(NOWHERE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_put_once_and_nothing_can_be_made_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(put(dir.path()).unwrap());
        assert!(!put(dir.path()).unwrap());
        assert!(is_put(dir.path()));
        let place = dir.path().join(PROMOTE);
        // As pg_ctl and PostgreSQL do it.
        let error = fs::File::create(&place).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::metadata(&place).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(lift(dir.path()).unwrap());
        assert!(!lift(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_promotion_that_nobody_has_seen_yet_is_barred_and_none_is_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(PROMOTE);
        fs::write(&place, "").unwrap();
        assert!(!lift(dir.path()).unwrap());
        assert!(place.is_file());
        symlink(NOWHERE, dir.path().join(ASIDE)).unwrap();
        assert!(put(dir.path()).unwrap());
        assert!(is_put(dir.path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_the_bar_is_not_moved_to_where_it_would_promote() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(ASIDE), "").unwrap();
        assert_eq!(put(dir.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!is_put(dir.path()));
        assert!(!dir.path().join(PROMOTE).exists());
    }

    #[test]
    fn without_a_data_directory_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(put(&gone).is_err());
        assert!(!lift(&gone).unwrap());
    }
}
