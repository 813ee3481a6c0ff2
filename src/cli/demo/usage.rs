//! Memory and processor time of an agent, by `/proc`.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

/// What an agent needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident memory in KiB.
    pub(super) rss_kib: u64,
    /// Processor time so far, of all its threads.
    pub(super) cpu: Duration,
}

impl Usage {
    /// Of `pid`; `None` when it is gone.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let cpu = scheduled(pid).or_else(|| ticks(&stat))?;
        Some(Self { rss_kib: rss_kib(&status)?, cpu })
    }
}

/// To the nanosecond, where the kernel counts so: a tick is 1 % of a second, as much as is allowed.
fn scheduled(pid: Pid) -> Option<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread that ended since the directory was read is not worth failing for.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (total > 0).then(|| Duration::from_nanos(total))
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time are fields 14 and 15; the name before them may have spaces and brackets.
fn ticks(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 25 17 0 0 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some(Duration::from_millis(420)));
        assert_eq!(rss_kib("Name:\tx\nVmRSS:\t   12345 kB\n"), Some(12345));
    }

    #[test]
    fn this_process_has_both() {
        let usage = Usage::of(rustix::process::getpid()).unwrap();
        assert!(usage.rss_kib > 100);
        assert!(usage.cpu > Duration::ZERO);
    }
}
