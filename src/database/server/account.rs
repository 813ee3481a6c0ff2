//! The operating system user PostgreSQL runs as.

use std::path::Path;
use std::process::Command;

use rustix::process::{getegid, geteuid};

use super::SetupError;

/// Who PostgreSQL's processes run as and who owns its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) struct Account {
    /// Name, as `peer` authentication sees it.
    pub(in crate::database) name: String,
    /// User id.
    pub(in crate::database) uid: u32,
    /// Primary group id.
    pub(in crate::database) gid: u32,
    /// The agent is root and has to change to this user for everything it starts.
    pub(in crate::database) switch: bool,
}

impl Account {
    /// The account for `os_user`, or the agent's own when none is named.
    pub(in crate::database) fn resolve(os_user: Option<&str>) -> Result<Self, SetupError> {
        let me = geteuid().as_raw();
        let Some(name) = os_user else {
            if me == 0 {
                return Err(SetupError::RootNeedsUser);
            }
            // In a container the user id may have no name.
            let name = id("-un", None).unwrap_or_else(|_| me.to_string());
            let account = Self { name, uid: me, gid: getegid().as_raw(), switch: false };
            return Ok(account);
        };
        let uid = number("-u", Some(name))?;
        if uid == 0 {
            return Err(SetupError::UserIsRoot { name: name.to_owned() });
        }
        if me != 0 && me != uid {
            return Err(SetupError::OtherUser { name: name.to_owned(), uid, me });
        }
        Ok(Self { name: name.to_owned(), uid, gid: number("-g", Some(name))?, switch: me == 0 })
    }
}

fn number(flag: &str, name: Option<&str>) -> Result<u32, SetupError> {
    let text = id(flag, name)?;
    text.parse().map_err(|_| SetupError::NoUser {
        name: name.unwrap_or("(own)").to_owned(),
        detail: format!("`id {flag}` printed {text:?}"),
    })
}

/// Asks `id`, which knows every source of users the system is configured with.
fn id(flag: &str, name: Option<&str>) -> Result<String, SetupError> {
    let failed =
        |detail: String| SetupError::NoUser { name: name.unwrap_or("(own)").to_owned(), detail };
    if name.is_some_and(|name| name.is_empty() || name.starts_with('-')) {
        return Err(failed("a user name is not empty and starts with a letter".to_owned()));
    }
    let output = Command::new("id")
        .arg(flag)
        .args(name)
        .current_dir(Path::new("/"))
        .output()
        .map_err(|error| failed(format!("cannot run `id`: {error}")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
