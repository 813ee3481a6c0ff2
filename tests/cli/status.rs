//! `status` against agents and against things that are none.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::http::Agent;
use super::{primary_view, program, text};

async fn output(arguments: &[&str]) -> std::process::Output {
    Command::from(program(arguments)).output().await.unwrap()
}

#[tokio::test]
async fn the_local_agent_is_asked_for_all_members() {
    let agent = Agent::start(primary_view()).await;
    let table = output(&["--http-listen", &agent.address, "status"]).await;
    assert_eq!(table.status.code(), Some(0), "{}", text(&table.stderr));
    let said = text(&table.stdout);
    for part in [
        "cluster main",
        "lease: a, epoch 7, 12.",
        "sqlite, connected",
        "MEMBER",
        "primary_healthy",
        "0/3000060",
        "2 KiB",
        "no: lag",
        "10.0.0.1:5432",
        "nobody would take over",
        "a is copying: 5 MiB of 9 MiB",
        "promoted",
        "ALARM: no_candidate",
        "NOT OBEYED: heartbeat.b: no JSON",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn an_explanation_says_who_would_take_over_when_and_why_not_the_others() {
    let alone = Agent::start(primary_view()).await;
    let said = output(&["--http-listen", &alone.address, "explain"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
    let said = text(&said.stdout);
    for part in [
        "a is the primary since epoch 7",
        "promoted",
        "If a died now:",
        "nobody would take over",
        "not b: lag",
        "the alarm no_candidate stands",
        "heartbeat.b, which is not obeyed: no JSON",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut view = primary_view();
    view.line = vec!["b".parse().unwrap()];
    view.members[1].ineligible = None;
    (view.alarms, view.not_obeyed) = (Vec::new(), Vec::new());
    let mut doubted = view.clone();
    let pair = Agent::start(view).await;
    let said = output(&["--http-listen", &pair.address, "explain"]).await;
    let said = text(&said.stdout);
    for part in [
        "b would take over 1.10 s after its last sign, 2 KiB behind when last compared\n",
        "Nothing is missing",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    doubted.members[1].doubtful = Some("its webhook is away".to_owned());
    let pair = Agent::start(doubted).await;
    for command in ["explain", "status"] {
        let said = text(&output(&["--http-listen", &pair.address, command]).await.stdout);
        assert!(said.contains("; for now by a failover only: its webhook is away"), "{said}");
    }
}

#[tokio::test]
async fn an_explanation_is_there_for_programs_too() {
    let agent = Agent::start(primary_view()).await;
    let said = output(&["--http-listen", &agent.address, "explain", "-o", "json"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["primary"], &said["epoch"]), (&"a".into(), &7.into()), "{said}");
    assert_eq!(said["line"], serde_json::json!([]), "{said}");
    assert_eq!(said["others"][0]["member"], "b", "{said}");
    assert_eq!(said["others"][0]["why"], "lag (last heard of 0.5 s ago)", "{said}");
    let missing = said["missing"].as_array().unwrap();
    assert!(missing.iter().any(|it| it == "a member that could take over"), "{said}");
}

#[tokio::test]
async fn json_and_yaml_are_whole() {
    let agent = Agent::start(primary_view()).await;
    let url = format!("http://{}/", agent.address);
    let json =
        output(&["status", "-o", "json", "--url", "http://127.0.0.1:1", "--url", &url]).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["members"][1]["ineligible"], "lag");
    assert_eq!(json["database"]["process"], "running_primary");
    let yaml = output(&["status", "-o", "yaml", "--url", &url]).await;
    assert!(text(&yaml.stdout).contains("cluster_id: main"), "{}", text(&yaml.stdout));
}

#[tokio::test]
async fn nobody_there_ends_with_69() {
    let ended = output(&["status", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(text(&ended.stderr).contains("http://127.0.0.1:1/status"), "{}", text(&ended.stderr));
}

#[tokio::test]
async fn somebody_else_there_ends_with_65_or_69() {
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 65),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 69),
        ("SSH-2.0-OpenSSH\r\n\r\n", 69),
        ("", 69),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let ended = output(&["status", "--url", &url]).await;
        assert_eq!(ended.status.code(), Some(code), "{answer:?}: {}", text(&ended.stderr));
        answering.await.unwrap();
    }
}

#[tokio::test]
async fn watch_prints_again() {
    let agent = Agent::start(primary_view()).await;
    let arguments = ["status", "--watch", "1", "--url", &agent.address];
    let mut watching = Command::from(program(&arguments));
    let mut watching = watching.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut headings = 0;
    while headings < 2 {
        let line = lines.next_line().await.unwrap().expect("it goes on");
        headings += usize::from(line.contains("cluster main as a sees it"));
    }
    watching.kill().await.unwrap();
}
