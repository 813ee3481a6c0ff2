//! With real programs: they hang, fail, are missing, flood, and leave others behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::program::{Ended, run};
use super::{Hooks, Settings, WAITING};
use crate::core::event::{Reason, State, Transition};
use crate::core::hook::{Hook, HookOutcome};
use crate::core::ids::Epoch;
use crate::metrics::Metrics;

/// Longer than anything here takes that is to end by itself.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// A script in a directory of its own.
struct Script {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Script {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("hook");
        std::fs::write(&program, format!("#!/bin/sh\ncd {:?}\n{text}\n", directory.path()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, program }
    }

    fn command(&self) -> Vec<String> {
        vec![self.program.display().to_string(), "an argument".to_owned()]
    }

    fn left(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }
}

/// Runs a script; what became of it, what it printed, and how long it took.
async fn tried(script: &Script, limit: Duration) -> (Ended, Vec<String>, Duration) {
    let said = Mutex::new(Vec::new());
    let say = |line: &str| said.lock().unwrap().push(line.to_owned());
    let began = Instant::now();
    let variables = [("HARMONY_HOOK", "on_fence".to_owned())];
    let never = CancellationToken::new();
    let ended = run(&script.command(), &variables, limit, &never, say).await;
    (ended, said.into_inner().unwrap(), began.elapsed())
}

/// The process whose number the script left in `file` goes away.
async fn goes_away(script: &Script, file: &str) {
    let pid: u32 = script.left(file).trim().parse().unwrap();
    for _ in 0..200 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if status.is_empty() || status.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {pid} is left");
}

#[tokio::test]
async fn a_program_sees_its_variables_and_nothing_else_of_the_agents() {
    let script = Script::new("env | sort > seen; echo \"$1\"; echo wrong >&2");
    let (ended, mut said, _) = tried(&script, LONG).await;
    said.sort();
    assert_eq!((ended, said), (Ended::Well, vec!["an argument".to_owned(), "wrong".to_owned()]));
    let seen = script.left("seen");
    let names: Vec<_> =
        seen.lines().filter_map(|line| line.split_once('=')).map(|it| it.0).collect();
    // The shell adds PWD and the like.
    let passed_on = |name: &&str| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name);
    let names: Vec<_> = names.into_iter().filter(passed_on).collect();
    assert_eq!(names, ["HARMONY_HOOK", "PATH"], "{seen}");
}

#[tokio::test]
async fn a_failing_program_says_its_status() {
    let (ended, ..) = tried(&Script::new("exit 3"), LONG).await;
    assert_eq!(ended, Ended::Badly("status 3".to_owned()));
    let (ended, ..) = tried(&Script::new("kill -9 $$"), LONG).await;
    assert!(matches!(&ended, Ended::Badly(how) if how.contains('9')), "{ended:?}");
}

#[tokio::test]
async fn a_missing_program_is_not_begun() {
    let script = Script::new("");
    std::fs::remove_file(&script.program).unwrap();
    let (ended, ..) = tried(&script, LONG).await;
    assert!(matches!(&ended, Ended::NotBegun(why) if why.contains("No such file")), "{ended:?}");
    std::fs::write(&script.program, "no program").unwrap();
    let (ended, ..) = tried(&script, LONG).await;
    assert!(matches!(&ended, Ended::NotBegun(why) if why.contains("denied")), "{ended:?}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_what_it_started() {
    let script = Script::new("trap '' TERM\nsleep 1000 & echo $! > child\necho $$ > own\nwait");
    let (ended, _, took) = tried(&script, SHORT).await;
    assert_eq!(ended, Ended::Late(SHORT));
    assert!(took < LONG, "{took:?}");
    goes_away(&script, "own").await;
    goes_away(&script, "child").await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
    let script = Script::new("sleep 1000 & echo $! > child\necho done");
    let (ended, said, took) = tried(&script, LONG).await;
    assert_eq!((ended, said), (Ended::Well, vec!["done".to_owned()]));
    assert!(took < LONG / 2, "{took:?}");
    goes_away(&script, "child").await;
    // Nor one that got out of the group.
    let script = Script::new("setsid sh -c 'echo $$ > child; sleep 2' &\nsleep 0.2; echo done");
    let (ended, said, took) = tried(&script, LONG).await;
    assert_eq!((ended, said), (Ended::Well, vec!["done".to_owned()]));
    assert!(took < Duration::from_millis(1_800), "{took:?}");
}

#[tokio::test]
async fn a_flood_is_read_but_not_logged() {
    let script = Script::new("yes a line | head -n 200000; printf 'x\\033[31m%01000d' 0 >&2");
    let (ended, said, _) = tried(&script, LONG).await;
    assert_eq!(ended, Ended::Well);
    assert_eq!(said.iter().filter(|line| *line == "a line").count(), 100);
    assert!(said.iter().any(|line| line.contains("not logged")), "{said:?}");
    let long = said.iter().find(|line| line.starts_with('x')).unwrap();
    assert!(long.starts_with("x\u{FFFD}[31m0") && long.len() < 600, "{long}");
}

#[tokio::test]
async fn a_cancelled_program_is_killed() {
    let script = Script::new("echo $$ > own\nexec sleep 1000");
    let cancel = CancellationToken::new();
    let command = script.command();
    let running = run(&command, &[], LONG, &cancel, |_: &str| ());
    let stop = async {
        while !script.left("own").ends_with('\n') {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(running, stop);
    assert_eq!(ended, Ended::Cancelled);
    goes_away(&script, "own").await;
}

fn transition(from: State, to: State) -> Transition {
    Transition { from, to, reason: Reason::Promoted, epoch: Epoch(7) }
}

fn hooks(programs: &[(Hook, &Script)], timeout: Duration) -> (std::sync::Arc<Hooks>, Metrics) {
    let programs = programs.iter().map(|(hook, script)| (*hook, script.command())).collect();
    let metrics = Metrics::new();
    let settings = Settings { programs, timeout };
    let (cluster, member) = ("main".parse().unwrap(), "a".parse().unwrap());
    (Hooks::new(cluster, member, settings, metrics.clone()), metrics)
}

fn count(metrics: &Metrics, hook: &str, outcome: &str) -> String {
    let head = format!("harmony_hook_runs_total{{hook=\"{hook}\",outcome=\"{outcome}\"}} ");
    let text = metrics.encode().unwrap();
    text.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_told_runs_in_order_one_after_the_other() {
    let log = tempfile::tempdir().unwrap();
    let tell = |extra: &str| {
        let file = log.path().join("log");
        Script::new(&format!(
            "echo begin $HARMONY_HOOK $HARMONY_HOOK_EPOCH >> {file:?}\n{extra}\necho end >> {file:?}"
        ))
    };
    let (promoted, primary, demoted) = (tell("sleep 0.1"), tell(""), tell(""));
    let programs =
        [(Hook::AfterPromote, &promoted), (Hook::OnPrimary, &primary), (Hook::OnDemote, &demoted)];
    let (hooks, metrics) = hooks(&programs, LONG);
    let serving = tokio::spawn(std::sync::Arc::clone(&hooks).serve());
    hooks.tell(&transition(State::ReplicaPromoting, State::PrimaryHealthy));
    hooks.tell(&transition(State::PrimaryHealthy, State::PrimaryFailed));
    hooks.finish().await;
    serving.abort();
    let told = std::fs::read_to_string(log.path().join("log")).unwrap();
    let names = ["after_promote", "on_primary", "on_demote"];
    let expected: String = names.map(|name| format!("begin {name} 7\nend\n")).concat();
    assert_eq!(told, expected);
    assert_eq!(count(&metrics, "on_demote", "ok"), "1");
    assert_eq!(count(&metrics, "on_demote", "failed"), "0");
    assert_eq!(count(&metrics, "on_fence", "ok"), "", "no such hook is configured");
}

#[tokio::test]
async fn what_hangs_holds_up_the_queue_for_its_limit_and_the_promotion_for_nothing() {
    let (hangs, before) = (Script::new("exec sleep 1000"), Script::new(""));
    let (hooks, metrics) =
        hooks(&[(Hook::OnReplica, &hangs), (Hook::BeforePromote, &before)], SHORT);
    let serving = tokio::spawn(std::sync::Arc::clone(&hooks).serve());
    let watching = transition(State::ReplicaInitializing, State::ReplicaWatching);
    // Nobody waits here, however many there are.
    for _ in 0..2 * WAITING {
        hooks.tell(&watching);
    }
    let dropped: usize = count(&metrics, "on_replica", "dropped").parse().unwrap();
    assert!(dropped + 1 >= WAITING, "{dropped}");
    let promoting = transition(State::ReplicaWatching, State::ReplicaPromoting);
    let outcome = hooks.before_promote(&promoting, LONG, &CancellationToken::new()).await;
    assert_eq!(outcome, HookOutcome::Succeeded);
    // The end of the agent waits for one run at most.
    let began = Instant::now();
    hooks.finish().await;
    assert!(began.elapsed() < SHORT * 10, "{:?}", began.elapsed());
    // It may end by its limit a moment after it was waited for.
    let limit = Instant::now() + LONG;
    while count(&metrics, "on_replica", "timed_out") == "0" {
        assert!(Instant::now() < limit, "what hangs is never ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    serving.abort();
}

#[tokio::test]
async fn the_core_hears_why_a_hook_failed() {
    let script = Script::new("exec sleep 1000");
    let (hooks, metrics) = hooks(&[(Hook::BeforePromote, &script)], LONG);
    let promoting = transition(State::ReplicaWatching, State::ReplicaPromoting);
    let outcome = hooks.before_promote(&promoting, SHORT, &CancellationToken::new()).await;
    assert!(matches!(&outcome, HookOutcome::Failed(why) if why.contains("killed")), "{outcome:?}");
    assert_eq!(count(&metrics, "before_promote", "timed_out"), "1");
    assert!(Path::new(&script.program).exists());
}
