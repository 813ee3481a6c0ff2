//! A cluster that was made and started by hand is taken over as it runs.

use std::fs::{self, OpenOptions};
use std::io::Write;

use rustix::process::{Signal, kill_process};

use super::checks::{LONG, assert_sound, count};
use super::client::Pinned;
use super::cluster::{Member, Place, until};
use crate::support::postgres::PASSWORD;

/// Runs one of PostgreSQL's programs, which has to work.
fn run(member: &Member, program: &str, arguments: &[&str]) {
    let output = member.tool(program).args(arguments).env("PGPASSWORD", PASSWORD).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Settings as somebody would write them who knows nothing of agents.
fn configure(member: &Member, name: &str) {
    let path = member.data_dir().join("postgresql.conf");
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    writeln!(
        file,
        "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
         shared_buffers = 16MB\nmax_connections = 20\nfsync = off\nwal_keep_size = 64MB\n\
         cluster_name = '{name}'",
        member.port,
        member.dir.join("socket").display(),
    )
    .unwrap();
}

fn start(member: &Member) {
    let (data, log) = (member.data_dir(), member.dir.join("by-hand.log"));
    let (data, log) = (data.to_str().unwrap(), log.to_str().unwrap());
    // `-l` detaches the server from our pipes.
    run(member, "pg_ctl", &["-D", data, "-l", log, "-w", "-s", "start"]);
}

fn make_primary(a: &Member) {
    let data = a.data_dir();
    let data = data.to_str().unwrap();
    run(a, "initdb", &["-D", data, "-U", "postgres", "-A", "peer", "-k", "-N"]);
    configure(a, "by-hand-a");
    let rules = "host replication harmony_replication 127.0.0.1/32 scram-sha-256\n\
                 host postgres harmony_replication 127.0.0.1/32 scram-sha-256\n";
    let path = a.data_dir().join("pg_hba.conf");
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{rules}{own}")).unwrap();
    start(a);
    let password = PASSWORD.replace('\'', "''");
    for sql in [
        format!("create role harmony_replication login replication password '{password}'"),
        // What the manual of pg_rewind lists.
        "grant execute on function pg_ls_dir(text, boolean, boolean), \
         pg_stat_file(text, boolean), pg_read_binary_file(text), \
         pg_read_binary_file(text, bigint, bigint, boolean) to harmony_replication"
            .to_owned(),
        "create table t (n int)".to_owned(),
        "insert into t select generate_series(1, 1000)".to_owned(),
    ] {
        a.sql(&sql).unwrap();
    }
    a.let_clients_in();
}

fn make_standby(a: &Member, b: &Member) {
    let (data, port) = (b.data_dir(), a.port.to_string());
    let from = ["-h", "127.0.0.1", "-p", &port, "-U", "harmony_replication"];
    let arguments = ["-D", data.to_str().unwrap(), "-R", "-c", "fast", "-X", "stream", "-N"];
    run(b, "pg_basebackup", &[&arguments[..], &from[..]].concat());
    configure(b, "by-hand-b");
    start(b);
    until("it streams", || match b.sql("select status from pg_stat_wal_receiver")?.as_str() {
        "streaming" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn a_running_cluster_is_taken_over_without_a_stop() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    make_primary(&a);
    make_standby(&a, &b);
    let servers = [a.postmaster(), b.postmaster()];
    let clients = Pinned::start(&[&a, &b]);
    clients.until_acknowledges(0);

    // The wrong one first: it waits for a holder, and harms nobody.
    b.start();
    b.until("it watches", |status| status["state"] == "replica_watching");
    clients.until_acknowledges(0);
    assert!(!b.log().contains("\"action\":\"promote\""), "{}", b.log());
    a.start();
    let status = a.until_leads();
    assert_eq!(status["last_transition"]["reason"], "lease_applied", "{status:#}");
    b.until_follows();
    // Else the holder would start its killed server again, which nobody could take over from.
    a.until_has_candidate();
    clients.until_acknowledges(0);
    assert_eq!([a.postmaster(), b.postmaster()], servers, "a server was restarted");
    assert_eq!(b.sql("select count(*) >= 1000 from t").unwrap(), "t");

    // What was made by hand fails over like what was made by the agent.
    kill_process(servers[0], Signal::KILL).unwrap();
    clients.until_acknowledges(1);
    b.until_leads();
    a.until_follows();
    clients.assert_one_after_the_other(&[0, 1]);
    assert!(count(&b) > 1000);

    // And back, by an end that loses nothing.
    assert!(b.stop().success(), "{}", b.log());
    a.until_leads();
    assert!(count(&a) > 1000);
    b.start();
    b.until_follows();
    assert_sound(&mut [&mut a, &mut b]);
}

#[test]
fn a_running_database_of_another_cluster_is_left_alone() {
    let place = Place::new();
    let (mut a, mut b) = (place.member("a"), place.member("b"));
    a.start();
    a.until_leads();
    // Its data directory is somebody else's, who is at work.
    make_primary(&b);
    let server = b.postmaster();
    let clients = Pinned::start(&[&b]);
    clients.until_acknowledges(0);
    b.start();
    b.until_alarm("foreign_data");
    std::thread::sleep(LONG);
    clients.until_acknowledges(0);
    assert_eq!(b.postmaster(), server, "{}", b.log());
    a.until_leads();
    assert_sound(&mut [&mut a, &mut b]);
}
