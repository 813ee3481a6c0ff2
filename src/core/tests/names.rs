use super::bench::*;
use crate::core::event::{Effect, Exit, Process, State};
use crate::core::ids::Epoch;
use crate::core::records::Key;
use crate::core::shared::Identity;

fn namesake() -> Identity {
    Identity { instance: "instance-other".parse().unwrap(), ..identity("a", 9) }
}

fn name_taken(bench: &Bench) -> bool {
    bench.effects.iter().any(|effect| matches!(effect, Effect::Exit(Exit::NameTaken(_))))
}

#[test]
fn the_newcomer_goes_when_its_name_is_alive() {
    let mut store = Store::new();
    store.put_lease(&namesake(), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::StoppedStandby);
    bench.read();
    assert!(!name_taken(&bench));
    assert!(bench.actions().is_empty());
    bench.store.put_lease(&namesake(), |lease| lease.seq = 1);
    bench.read();
    assert!(name_taken(&bench));
}

#[test]
fn a_former_life_without_its_state_directory_is_waited_out() {
    let mut store = Store::new();
    store.put_lease(&identity("b", 1), |_| {});
    store.put_heartbeat(&namesake(), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::RunningStandby);
    bench.read();
    for seq in 0..20 {
        bench.store.put_lease(&identity("b", 1), |lease| lease.seq = seq);
        bench.quiet_seconds(1);
    }
    assert_eq!(bench.agent.state(), State::ReplicaWatching);
}

#[test]
fn a_holder_that_replaces_our_former_life_is_no_namesake() {
    let mut store = Store::new();
    store.put_heartbeat(&namesake(), |_| {});
    store.put_lease(&namesake(), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::StoppedStandby);
    bench.read();
    bench.store.put_lease(&identity("b", 1), |lease| lease.epoch = Epoch(6));
    bench.read();
    assert!(!name_taken(&bench));
}

#[test]
fn a_namesake_that_started_at_the_same_time_is_found_later() {
    let mut bench = Bench::watching();
    bench.store.put_heartbeat(&namesake(), |_| {});
    bench.read();
    bench.advance_ms(1_000);
    assert!(bench.writing(&Key::Heartbeat(member("a"))).is_none(), "silent while contested");
    bench.store.put_heartbeat(&namesake(), |_| {});
    bench.read();
    assert!(name_taken(&bench));
}

#[test]
fn a_primary_is_fenced_before_its_agent_goes() {
    let mut store = Store::new();
    store.put_lease(&namesake(), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::RunningPrimary);
    bench.read();
    assert!(bench.fences());
    bench.store.put_lease(&namesake(), |lease| lease.seq = 1);
    bench.read();
    assert!(!name_taken(&bench));
    bench.acted(fenced());
    assert!(name_taken(&bench));
}

/// It froze past its lease, was ended by its watchdog, and finds its name used by another one.
#[test]
fn a_former_primary_that_is_down_goes_when_its_name_is_taken() {
    let mut store = Store::new();
    store.put_lease(&identity("a", 0), |_| {});
    store.put_cluster(&identity("a", 0), |_| {});
    store.put_heartbeat(&namesake(), |_| {});
    let mut bench = Bench::start(store);
    bench.observe(Process::RunningPrimary);
    bench.read();
    bench.store.put_heartbeat(&namesake(), |_| {});
    bench.read();
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    assert!(!name_taken(&bench), "not while its database may be writable");
    bench.observe(Process::StoppedPrimary);
    assert!(name_taken(&bench));
}
