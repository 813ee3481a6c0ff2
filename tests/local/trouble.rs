//! What is seen when something is wrong. Busy is not dead.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use harmony_agent::core::event::{Action, Condition, Process};
use rustix::process::Signal;

use crate::support::disk::Disk;
use crate::support::postgres::{Member, Scene, need_root, pair, timed};

#[tokio::test]
async fn a_stale_pid_file_confuses_nobody() {
    let scene = Scene::new();
    let (a, other) = (scene.member("a"), scene.member("other"));
    a.begin().await;
    other.begin().await;
    let path = a.settings.data_dir.join("postmaster.pid");
    let text = std::fs::read_to_string(&path).unwrap();
    a.fence(0, 0).await;
    // The number belongs to another server of the same user now.
    let stale = text.replacen(&a.pid_in(&text), &other.pid().to_string(), 1);
    std::fs::write(&path, stale).unwrap();
    scene.give_away(&path);
    assert_eq!(a.look().await.process, Process::StoppedPrimary);
    a.done(Action::StartPrimary).await;
    assert_eq!(a.look().await.condition, Condition::Ok);
    assert_eq!(other.look().await.condition, Condition::Ok, "the other one was left alone");
    assert!(text.lines().count() > 1);
}

impl Member {
    fn pid_in(&self, text: &str) -> String {
        text.lines().next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.done(Action::Bootstrap).await;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", a.settings.port)).unwrap();
    let why = a.refused(Action::StartPrimary).await;
    assert!(why.contains("Address already in use") || why.contains("TCP/IP"), "{why}");
    let seen = a.look().await;
    assert!(matches!(&seen.condition, Condition::Broken(text) if *text == why), "{seen:?}");
    assert_eq!(seen.process, Process::StoppedPrimary);
    drop(_taken);
    a.done(Action::StartPrimary).await;
    assert_eq!(a.look().await.condition, Condition::Ok);
}

#[tokio::test]
async fn what_is_no_database_is_not_touched() {
    let scene = Scene::new();
    let a = scene.member("a");
    std::fs::create_dir(&a.settings.data_dir).unwrap();
    std::fs::write(a.settings.data_dir.join("thesis.txt"), "years of work").unwrap();
    let seen = a.look().await;
    assert_eq!(seen.process, Process::Unusable);
    assert!(matches!(&seen.condition, Condition::Broken(text) if text.contains("no database")));
    let clone = Action::Clone { upstream: a.upstream() };
    for action in
        [Action::Bootstrap, Action::StartPrimary, clone, Action::Follow { upstream: None }]
    {
        a.refused(action).await;
    }
    std::fs::write(a.settings.data_dir.join("PG_VERSION"), "9.6\n").unwrap();
    let seen = a.look().await;
    assert!(matches!(&seen.condition, Condition::Broken(text) if text.contains("9.6")), "{seen:?}");
    let kept = std::fs::read_to_string(a.settings.data_dir.join("thesis.txt")).unwrap();
    assert_eq!(kept, "years of work");
}

#[tokio::test]
async fn a_damaged_control_file_is_said() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.done(Action::Bootstrap).await;
    let path = a.settings.data_dir.join("global/pg_control");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let seen = a.look().await;
    assert_eq!(seen.process, Process::Unusable);
    assert!(
        matches!(&seen.condition, Condition::Broken(text) if text.contains("damaged")),
        "{seen:?}"
    );
    assert_eq!(a.fence(0, 0).await.rung, "down");
}

#[tokio::test]
async fn no_connection_left_is_not_death() {
    let scene = Scene::new();
    let mut settings = scene.settings("a");
    for (name, value) in [
        ("max_connections", "4"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "2"),
    ] {
        settings.parameters.insert(name.to_owned(), value.to_owned());
    }
    settings.write_probe_interval = Duration::ZERO;
    let a = Member::new(settings);
    a.begin().await;
    assert_eq!(a.look().await.condition, Condition::Ok);
    let client = || a.sql("select pg_sleep(30)");
    let crowd = futures_util::future::join_all([client(), client(), client(), client()]);
    tokio::pin!(crowd);
    assert!(tokio::time::timeout(Duration::from_millis(700), &mut crowd).await.is_err());
    assert_eq!(a.look().await.condition, Condition::Ok, "by the connection it has");
    let late = Member::new(a.settings.clone());
    let seen = late.look().await;
    let known = (Process::RunningPrimary, Condition::ConnectionsExhausted);
    assert_eq!((seen.process, seen.condition), known, "by its control file");
    assert_eq!(seen.system, a.look().await.system);
}

#[tokio::test]
async fn hung_is_said_only_after_its_time_and_slow_is_not_hung() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    a.until(|seen| seen.condition == Condition::Ok).await;
    let look = || a.local_look(Duration::from_millis(200));
    let pids: Vec<i32> = std::iter::once(a.pid()).chain(a.children()).collect();
    for pid in &pids {
        Member::signal(*pid, Signal::STOP);
    }
    let began = tokio::time::Instant::now();
    let hung = loop {
        let seen = look().await;
        assert_eq!(seen.process, Process::RunningPrimary, "last known");
        if matches!(seen.condition, Condition::Hung(_)) {
            break began.elapsed();
        }
        assert!(matches!(seen.condition, Condition::Ok | Condition::Slow), "{seen:?}");
        assert!(began.elapsed() < Duration::from_secs(6), "never hung");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("hung after {hung:?}");
    assert!(hung >= Duration::from_millis(1_800), "{hung:?}");
    for pid in pids {
        Member::signal(pid, Signal::CONT);
    }
    a.until(|seen| seen.condition == Condition::Ok).await;
}

#[tokio::test]
async fn a_postmaster_stopped_alone_is_hung_after_its_time() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    a.until(|seen| seen.condition == Condition::Ok).await;
    let postmaster = a.pid();
    Member::signal(postmaster, Signal::STOP);
    let began = tokio::time::Instant::now();
    let text = loop {
        let seen = a.local_look(Duration::from_millis(200)).await;
        assert_eq!(seen.process, Process::RunningPrimary);
        if let Condition::Hung(text) = seen.condition {
            break text;
        }
        assert_eq!(seen.condition, Condition::Ok, "its sessions go on");
        assert!(began.elapsed() < Duration::from_secs(6), "never hung");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(began.elapsed() >= Duration::from_millis(1_800), "{:?}", began.elapsed());
    assert!(text.contains(&format!("kill -CONT {postmaster}")), "{text}");
    Member::signal(postmaster, Signal::CONT);
    // The write probe may still have to get its connection.
    a.until(|seen| seen.condition == Condition::Ok).await;
    // A new stop has its own time.
    Member::signal(postmaster, Signal::STOP);
    assert_eq!(a.look().await.condition, Condition::Ok);
    assert_eq!(a.fence(100, 200).await.rung, "kill");
    assert_eq!(a.look().await.process, Process::StoppedPrimary);
}

#[tokio::test]
async fn one_stuck_connection_is_not_a_hung_server() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    a.until(|seen| seen.condition == Condition::Ok).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.look().await;
    let ours = a.query("select string_agg(pid::text, ' ') from pg_stat_activity where application_name = 'harmony-agent'").await;
    for pid in ours.split(' ') {
        Member::signal(pid.parse().unwrap(), Signal::STOP);
    }
    for _ in 0..30 {
        let seen = a.local_look(Duration::from_millis(200)).await;
        assert!(matches!(seen.condition, Condition::Ok | Condition::Slow), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(a.look().await.condition, Condition::Ok);
}

#[tokio::test]
async fn hard_work_stays_ok() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    a.query(
        "create table big as select g, repeat('x', 200) as t from generate_series(1, 100000) g",
    )
    .await;
    let work = ["update big set t = repeat('y', 300)", "vacuum full big", "checkpoint"];
    let work = async {
        for sql in work {
            a.query(sql).await;
        }
    };
    let watch = async {
        loop {
            let seen = a.local_look(Duration::from_millis(500)).await;
            assert!(matches!(seen.condition, Condition::Ok | Condition::Slow), "{seen:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = watch => {}
    }
    timed("checkpoint", a.done(Action::Checkpoint)).await;
}

#[tokio::test]
async fn a_full_disk_is_said() {
    need_root();
    let scene = Scene::new();
    let path = scene.path().join("disk");
    std::fs::create_dir(&path).unwrap();
    scene.give_away(&path);
    let disk = Disk::mount(&path, "170m");
    let mut settings = scene.settings("a");
    settings.data_dir = disk.path().join("a");
    settings.wal_keep_mib = 16;
    let a = Member::new(settings);
    a.begin().await;
    a.until(|seen| seen.condition == Condition::Ok).await;
    let filled = a
        .sql("create table big as select g, repeat(md5(g::text), 50) as t from generate_series(1, 200000) g")
        .await;
    println!(
        "filling the disk: {}",
        filled.as_ref().unwrap_err().lines().next().unwrap_or_default()
    );
    disk.fill();
    let seen = a.until(|seen| matches!(seen.condition, Condition::DiskFull(_))).await;
    println!("{:?} {:?}", seen.process, seen.condition);
    a.fence(300, 600).await;
    let why = match a.act(Action::StartPrimary).await {
        harmony_agent::core::event::ActionOutcome::Applied(_) => String::new(),
        harmony_agent::core::event::ActionOutcome::Refused(why)
        | harmony_agent::core::event::ActionOutcome::Unknown(why) => why,
    };
    println!("start on a full disk: {why}");
    let seen = a.look().await;
    assert!(matches!(seen.condition, Condition::DiskFull(_)), "{seen:?}");
    disk.free();
    a.fence(0, 0).await;
    drop(a);
}

#[tokio::test]
async fn a_wrong_owner_is_said() {
    need_root();
    let scene = Scene::new();
    let a = scene.member("a");
    a.done(Action::Bootstrap).await;
    std::os::unix::fs::chown(&a.settings.data_dir, Some(0), Some(0)).unwrap();
    let seen = a.look().await;
    assert!(
        matches!(&seen.condition, Condition::Broken(text) if text.contains("owner")),
        "{seen:?}"
    );
    assert!(a.refused(Action::StartPrimary).await.contains("owner"));
}

#[tokio::test]
async fn a_server_that_does_not_let_us_in_is_denied_not_dead() {
    let scene = Scene::new();
    let a = scene.member("a");
    a.begin().await;
    let path = a.settings.data_dir.join("pg_hba.conf");
    std::fs::write(&path, "local all all reject\n").unwrap();
    Member::signal(a.pid(), Signal::HUP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = Member::new(a.settings.clone());
    let seen = late.look().await;
    assert!(matches!(seen.condition, Condition::Denied(_)), "{seen:?}");
    assert_eq!(seen.process, Process::RunningPrimary, "by its control file");
}

#[tokio::test]
async fn a_standby_that_does_not_let_us_in_is_still_a_standby() {
    let scene = Scene::new();
    let (_a, b) = pair(&scene).await;
    std::fs::write(b.settings.data_dir.join("pg_hba.conf"), "local all all reject\n").unwrap();
    Member::signal(b.pid(), Signal::HUP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = Member::new(b.settings.clone());
    let seen = late.look().await;
    assert!(matches!(seen.condition, Condition::Denied(_)), "{seen:?}");
    assert_eq!(seen.process, Process::RunningStandby, "by its control file");
}
