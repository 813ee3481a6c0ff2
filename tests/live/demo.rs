//! The demo as its users meet it: every fault once, interrupted anywhere, nothing left behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Gaps are measured: two demos at once would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// A place for one demo; checked to be empty, and without processes, in the end.
struct Place {
    dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        // PostgreSQL may run as somebody else, and has to pass.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), everybody).unwrap();
        Self { dir, _alone: alone }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harmony-agent"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HARMONY_")) {
            command.env_remove(name);
        }
        command.arg("demo").arg("--dir").arg(self.dir.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn assert_nothing_left(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap).collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        let processes = processes(self.dir.path());
        assert!(processes.is_empty(), "processes are left: {processes:?}");
    }

    /// Runs the demo once and returns its report.
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).args(["--report", "json"]).output().unwrap();
        let Output { status, stdout, stderr } = &output;
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        assert!(status.success(), "{arguments:?}: {status}\n{stdout}\n{stderr}");
        self.assert_nothing_left();
        assert_eq!(stdout.lines().count(), 1, "standard output is for the report: {stdout}");
        serde_json::from_str(&stdout).unwrap()
    }
}

/// Processes that work in `dir` or below, or whose command line names it.
fn processes(dir: &Path) -> Vec<String> {
    let name = dir.to_str().unwrap();
    let describe = |path: &Path| {
        let cwd = std::fs::read_link(path.join("cwd")).ok();
        let works_here = cwd.is_some_and(|cwd| cwd.to_string_lossy().starts_with(name));
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (works_here || line.contains(name)).then(|| format!("{}: {line}", path.display()))
    };
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| describe(&entry.path())).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

pub(super) fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {report}"))
}

/// One run of `arguments`: less than `gap` ms, one writer at a time.
pub(super) fn fault(arguments: &[&str], gap: f64, fails_over: bool) -> Value {
    let report = Place::new().report(arguments);
    check(&report, gap, fails_over);
    report
}

fn check(report: &Value, gap: f64, fails_over: bool) {
    assert_eq!(number(report, "/summary/alternations"), 0.0, "{report}");
    assert!(number(report, "/summary/gap_ms/max") < gap, "{report}");
    for phase in ["detect", "acquire", "promote", "first_commit"] {
        let value = report.pointer(&format!("/runs/0/phases_ms/{phase}")).unwrap();
        assert_eq!(value.is_number(), fails_over, "{phase}: {report}");
    }
    assert!(number(report, "/summary/agent_rss_kib") > 1000.0, "{report}");
}

/// The same for a failover that nobody waits out: the lease was released, and taken for that.
fn handed_over(arguments: &[&str], gap: f64) -> Value {
    let place = Place::new();
    let mut child = place.start(&[arguments, &["--report", "json", "--keep"]].concat());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value {
        let line = lines.next().unwrap_or_else(|| panic!("{arguments:?}: the demo ended early"));
        serde_json::from_str(&line.unwrap()).unwrap()
    };
    let (report, kept) = (next(), next());
    check(&report, gap, true);
    assert_eq!(takeovers(&kept), ["lease_released"], "{kept}");
    signal(&child, Signal::INT);
    assert!(child.wait().unwrap().success());
    place.assert_nothing_left();
    report
}

/// Why the member that leads now was promoted, each time.
fn takeovers(kept: &Value) -> Vec<String> {
    let mut members = kept["members"].as_array().unwrap().iter();
    let leads = members.find(|member| member["name"] == kept["primary"]).unwrap();
    let log = Path::new(leads["config"].as_str().unwrap()).with_file_name("agent.log");
    let log = std::fs::read_to_string(log).unwrap();
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["to"] == "replica_promoting")
        .map(|line| line["reason"].as_str().unwrap().to_owned())
        .collect()
}

/// The lease of the profile `fast`: whoever waits it out is not faster.
pub(super) const LEASE: f64 = 1000.0;
/// Lease and margin are waited out; the rest is a debug build on a machine with other things to do.
pub(super) const EXPIRY: f64 = LEASE + 100.0 + 1500.0;
/// Nobody takes over.
const UNNOTICED: f64 = 500.0;

#[test]
fn without_a_fault_nobody_waits_and_nothing_is_lost() {
    let report = fault(&[], UNNOTICED, false);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
    assert!(report.pointer("/runs/0/rejoin_ms").unwrap().is_null(), "{report}");
}

#[test]
fn a_dead_node_is_replaced() {
    let report = fault(&["--fault", "node-kill"], EXPIRY, true);
    assert!(number(&report, "/runs/0/rejoin_ms") > 0.0, "{report}");
}

#[test]
fn a_dead_node_is_replaced_again_and_again_among_three() {
    let report = fault(&["--fault", "node-kill", "--members", "3", "--runs", "2"], EXPIRY, true);
    assert_eq!(report["runs"].as_array().unwrap().len(), 2, "{report}");
}

/// Whoever takes over has what was acknowledged. How long commits wait for a standby is not judged here.
#[test]
fn synchronous_commits_outlive_a_dead_node() {
    let strict = "synchronous.mode=strict";
    let arguments = ["--fault", "node-kill", "--members", "3", "--runs", "2", "--set", strict];
    let report = fault(&arguments, 60_000.0, true);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}

#[test]
fn a_switchover_loses_nothing_and_waits_nothing_out() {
    let arguments = ["--fault", "switchover", "--set", "synchronous.mode=on"];
    let report = fault(&arguments, 60_000.0, true);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
    assert!(number(&report, "/runs/0/phases_ms/detect") < LEASE, "{report}");
}

#[test]
fn a_dead_postgres_is_handed_over() {
    handed_over(&["--fault", "pg-kill"], LEASE);
}

#[test]
fn a_dead_agent_is_fenced_by_its_watchdog() {
    fault(&["--fault", "agent-kill"], EXPIRY, true);
}

#[test]
fn a_frozen_agent_is_fenced_by_its_watchdog() {
    fault(&["--fault", "agent-freeze"], EXPIRY, true);
}

#[test]
fn a_restarted_agent_is_not_noticed() {
    let report = fault(&["--fault", "agent-restart"], UNNOTICED, false);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}

#[test]
fn a_terminated_agent_hands_over_without_loss() {
    let report = handed_over(&["--fault", "agent-term"], LEASE);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}

#[test]
fn a_terminated_agent_may_leave_postgres_running() {
    let arguments = ["--fault", "agent-term", "--set", "shutdown.on_sigterm=leave_running"];
    let report = fault(&arguments, UNNOTICED, false);
    assert_eq!(number(&report, "/summary/lost_acked"), 0.0, "{report}");
}

/// The same through three NATS servers: the store is another, what is promised is not.
#[test]
fn nodes_and_databases_are_replaced_through_a_nats_cluster() {
    let servers = crate::support::nats::Cluster::start();
    let store = servers.urls().join(",");
    for (kind, bound) in [("node-kill", EXPIRY), ("pg-kill", EXPIRY), ("agent-kill", EXPIRY)] {
        fault(&["--store", &store, "--fault", kind], bound, true);
    }
}

#[test]
fn two_primaries_are_seen_when_the_guard_is_off() {
    let place = Place::new();
    let arguments = ["--fault", "agent-kill", "--set", "watchdog.mode=off", "--report", "json"];
    let output = place.command(&arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&report, "/summary/alternations") > 10.0, "{report}");
    place.assert_nothing_left();
}

#[test]
fn kept_members_are_there_until_interrupted() {
    let place = Place::new();
    let mut child = place.start(&["--keep"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let kept: Value = serde_json::from_str(&line).unwrap();
    let members = kept["members"].as_array().unwrap();
    assert_eq!(members.len(), 2);
    for member in members {
        for pid in ["agent_pid", "postgres_pid"] {
            assert!(Path::new(&format!("/proc/{}", member[pid])).exists(), "{pid}: {kept}");
        }
        for file in ["data_dir", "config"] {
            assert!(Path::new(member[file].as_str().unwrap()).exists(), "{file}: {kept}");
        }
        assert!(member["port"].is_u64() && member["host"] == "127.0.0.1", "{kept}");
        let http: std::net::SocketAddr = member["agent_http"].as_str().unwrap().parse().unwrap();
        std::net::TcpStream::connect(http).unwrap();
    }
    assert!(members.iter().any(|member| member["name"] == kept["primary"]), "{kept}");
    assert!(kept["client_dsn"].as_str().unwrap().contains("target_session_attrs=read-write"));
    assert!(kept["store"].as_str().unwrap().starts_with("sqlite:"));

    signal(&child, Signal::INT);
    assert!(child.wait().unwrap().success());
    place.assert_nothing_left();
}

#[test]
fn an_interrupt_at_any_point_cleans_up() {
    // Making directories, initdb, base backup, steady writing, in the middle of a failover.
    for (millis, with) in [
        (5, Signal::INT),
        (150, Signal::TERM),
        (900, Signal::INT),
        (2500, Signal::HUP),
        (5000, Signal::INT),
        (8000, Signal::TERM),
    ] {
        let place = Place::new();
        let mut child = place.start(&["--fault", "node-kill", "--runs", "100"]);
        std::thread::sleep(Duration::from_millis(millis));
        signal(&child, with);
        let status = child.wait().unwrap();
        place.assert_nothing_left();
        // Before the signals are caught there is nothing to clean up, and the signal does its work.
        assert!(
            status.code() == Some(75) || (millis < 50 && status.code().is_none()),
            "{millis}: {status}"
        );
    }
}

#[test]
fn a_setup_that_cannot_work_fails_with_a_reason_and_cleans_up() {
    let place = Place::new();
    let output = place.command(&["--set", "database.local.bin_dir=/nowhere"]).output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nowhere"), "{stderr}");
    place.assert_nothing_left();
}

#[test]
fn a_killed_demo_is_named_by_the_next_one() {
    let place = Place::new();
    let mut child = place.start(&["--keep"]);
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let output = place.command(&["--members", "1"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().find(|line| line.contains("a demo that was killed left")).unwrap();
    // What it says is to be done, is enough.
    let advice = line.split_once("with: ").unwrap().1;
    assert!(Command::new("sh").args(["-c", advice]).status().unwrap().success(), "{advice}");
    std::thread::sleep(Duration::from_millis(200));
    place.assert_nothing_left();
}
