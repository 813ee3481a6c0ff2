//! What the demo is not asked for: keys that are its own to choose, and faults that need more than is
//! there.

use super::super::Settings;
use super::super::exit::{Code, Failure};
use super::{Arguments, Fault, StoreChoice};

/// Keys that tell the members of the demo apart, or are said by its own flags.
const OWN_KEYS: [&str; 14] = [
    "cluster_id",
    "member",
    "state_dir",
    "profile",
    "store.backend",
    "store.sqlite.path",
    "store.nats.servers",
    "database.local.data_dir",
    "database.local.port",
    "database.local.socket_dir",
    "http.listen",
    "http.advertise",
    "peers.secret_file",
    "log.format",
];

/// Refuses what the demo cannot do.
///
/// # Errors
/// The command line is wrong.
pub(super) fn check(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let named = [
        ("--cluster-id", settings.cluster_id.is_some()),
        ("--member", settings.member.is_some()),
        ("--state-dir", settings.state_dir.is_some()),
        ("--data-dir", settings.data_dir.is_some()),
        ("--http-listen", settings.http_listen.is_some()),
        ("--log-format", settings.log_format.is_some()),
    ];
    let own = settings.set.iter().map(|(key, _)| key).find(|key| OWN_KEYS.contains(&key.as_str()));
    let own = own.map(|key| format!("--set {key}"));
    let wrong =
        named.iter().find(|(_, is_set)| *is_set).map(|(flag, _)| (*flag).to_owned()).or(own);
    if let Some(wrong) = wrong {
        let text = format!("{wrong} is the demo's to choose for each member; leave it out");
        return Err(Failure::new(Code::Usage, text));
    }
    if arguments.fault.needs_another() && arguments.members < 2 {
        let fault = arguments.fault.name();
        let text = format!(
            "--members is 1, but --fault {fault} needs another one to take over; use 2 or more"
        );
        return Err(Failure::new(Code::Usage, text));
    }
    check_fault(arguments.fault, &arguments.store, settings)
}

/// What only some faults need.
fn check_fault(fault: Fault, store: &StoreChoice, settings: &Settings) -> Result<(), Failure> {
    if fault.is_of_store() && *store != StoreChoice::Sqlite {
        let text = format!(
            "--fault {} is done to a store of the demo's own: leave --store out. The NATS servers are \
             somebody else's",
            fault.name()
        );
        return Err(Failure::new(Code::Usage, text));
    }
    let chosen = ["failover.priority", "failover.failback_after"];
    let set = settings.set.iter().map(|(key, _)| key).find(|key| chosen.contains(&key.as_str()));
    match set {
        Some(key) if fault == Fault::Failback => {
            let text = format!("--set {key} is the demo's to choose with --fault failback");
            Err(Failure::new(Code::Usage, text))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_demo_chooses_is_refused() {
        use clap::Parser;
        let check = |arguments: &[&str]| {
            let all = ["harmony-agent", "demo"].into_iter().chain(arguments.iter().copied());
            let parsed = crate::cli::Arguments::try_parse_from(all).unwrap();
            let crate::cli::Command::Demo(demo) = parsed.command else { panic!("not demo") };
            check(&demo, &parsed.settings)
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(
            check(&["--fault", "agent-term", "--set", "shutdown.on_sigterm=leave_running"]),
            Ok(())
        );
        assert_eq!(check(&["--set", "store.nats.user=x"]), Ok(()));
        assert_eq!(check(&["--members", "1", "--fault", "store-outage"]), Ok(()));
        assert_eq!(check(&["--fault", "pause-kill", "--set", "failover.priority=3"]), Ok(()));
        for wrong in [
            &["--member", "x"][..],
            &["--cluster-id", "x"],
            &["--state-dir", "/x"],
            &["--data-dir", "/x"],
            &["--http-listen", "127.0.0.1:1"],
            &["--log-format", "text"],
            &["--set", "log.format=text"],
            &["--set", "database.local.port=1"],
            &["--set", "http.advertise=127.0.0.1:1"],
            &["--set", "store.nats.servers=nats://h:1"],
            &["--set", "peers.secret_file=/x"],
            &["--members", "1", "--fault", "node-kill"],
            &["--members", "1", "--fault", "failback"],
            &["--members", "1", "--fault", "pause-kill"],
            &["--fault", "failback", "--set", "failover.priority=3"],
            &["--fault", "failback", "--set", "failover.failback_after=1s"],
            &["--fault", "store-outage", "--store", "nats://h:1"],
            &["--fault", "store-replace", "--store", "nats://h:1"],
        ] {
            assert_eq!(check(wrong).unwrap_err().code, Code::Usage, "{wrong:?}");
        }
    }
}
