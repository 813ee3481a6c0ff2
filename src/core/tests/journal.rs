use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::bench::*;
use super::watching::silent_for;
use crate::core::event::{ActionOutcome, Effect, Event, Process, State, WatchdogStatus};
use crate::core::ids::{Epoch, Lsn, TimelineId};
use crate::core::journal::{
    Aside, AtRisk, Contender, Ending, Fence, LONGEST_TEXT, MOST_CONTENDERS, Report, short,
};
use crate::core::order::{Order, Wish};
use crate::core::policy::{Policy, WatchdogMode};
use crate::core::records::{Key, Record, Release};
use crate::core::shared::header;
use crate::store::codec;

fn reported(bench: &Bench) -> Option<Report> {
    bench.effects.iter().find_map(|effect| match effect {
        Effect::Report(report) => Some((**report).clone()),
        _ => None,
    })
}

/// `b` falls silent, and `a` takes the lease and is promoted.
fn taken_over(change: impl FnOnce(&mut Store)) -> Bench {
    let mut bench = Bench::watching_with(policy(), change);
    silent_for(&mut bench, 60_000);
    assert!(bench.lease_written().is_some());
    promoted(bench)
}

/// The acquisition that `a` has just asked for is applied, and it is promoted.
fn promoted(mut bench: Bench) -> Bench {
    pass(&mut bench, 20);
    bench.apply(&Key::Lease);
    assert_eq!(reported(&bench), None, "it is not over");
    pass(&mut bench, 30);
    bench.remember();
    pass(&mut bench, 200);
    bench.acted(done());
    assert_eq!(bench.agent.state(), State::PrimaryHealthy);
    bench
}

fn pass(bench: &mut Bench, milliseconds: u64) {
    bench.now = bench.now + Duration::from_millis(milliseconds);
}

#[test]
fn a_takeover_tells_what_was_known_who_was_there_and_what_took_how_long() {
    let bench = taken_over(|store| {
        store.put_lease(&identity("b", 1), |lease| {
            (lease.seq, lease.database.lsn) = (9, Lsn(5_400));
        });
        store.put_heartbeat(&identity("c", 1), |heartbeat| {
            heartbeat.ineligible = Some("priority is 0: never promoted".to_owned());
        });
    });
    let report = reported(&bench).unwrap();
    assert_eq!((report.epoch, report.holder.as_str()), (Epoch(6), "a"));
    assert_eq!((report.reason.as_str(), &report.outcome), ("holder_silent", &Ending::Opened));
    assert_eq!(report.at_risk, Some(AtRisk { bytes: 400, exact: false }));
    let evidence = report.evidence.unwrap();
    assert_eq!((evidence.holder.as_str(), evidence.epoch, evidence.seq), ("b", Epoch(5), 9));
    assert_eq!(evidence.unchanged_ms, Some(16_000));
    assert_eq!(evidence.access_ms, Some(16_000));
    assert!(evidence.store_ms >= Some(15_000), "{:?}", evidence.store_ms);
    assert_eq!(evidence.witness.as_deref(), Some("agrees"));
    assert_eq!(evidence.release, None);
    let names: Vec<&str> = report.contenders.iter().map(|it| it.member.as_str()).collect();
    assert_eq!(names, ["a", "c"], "and not who was replaced");
    assert_eq!((report.contenders[0].place, report.contenders[0].behind), (Some(0), 400));
    assert_eq!(report.contenders[0].against, None);
    // Its heartbeat has not changed since then.
    let against = report.contenders[1].against.as_deref();
    assert!(report.contenders[1].place.is_none() && against.is_some(), "{against:?}");
    let phases: Vec<_> =
        report.phases.iter().map(|it| (it.name.as_str(), it.took_ms, it.budget_ms)).collect();
    assert_eq!(
        phases,
        [
            ("detected", 16_000, Some(16_000)),
            ("acquired", 20, Some(1_000)),
            ("prepared", 30, None),
            ("promoted", 200, Some(29_970)),
        ]
    );
    assert_eq!(report.writable_ms, Some(16_250));
    let mut bench = bench;
    bench.advance_ms(1_000);
    assert_eq!(reported(&bench), None, "told once");
}

#[test]
fn a_switchover_tells_who_asked_and_how_the_old_primary_went() {
    let fence =
        Fence { why: "switchover".to_owned(), rung: "fast".to_owned(), clean: true, took_ms: 57 };
    let release = Release {
        to: Some(member("a")),
        reason: "switchover".to_owned(),
        lsn: Some(Lsn(5_000)),
        timeline: TimelineId(1),
        fence: Aside(Some(fence.clone())),
        token: None,
    };
    let mut bench = Bench::watching();
    bench.store.put_cluster(&identity("b", 1), |cluster| {
        cluster.order = Some(Order {
            id: "order-1".to_owned(),
            wish: Wish::Switchover,
            epoch: Epoch(5),
            to: Some(member("a")),
            by: "somebody".to_owned(),
            not_before: None,
            rehearsal: false,
        });
    });
    bench.store.put_lease(&identity("b", 1), |lease| lease.released = Some(release));
    bench.read();
    assert!(bench.lease_written().is_some());
    let bench = promoted(bench);
    let report = reported(&bench).unwrap();
    assert_eq!(report.reason, "lease_released");
    assert_eq!(report.at_risk, Some(AtRisk { bytes: 0, exact: true }));
    let asked = report.asked.unwrap();
    assert_eq!((asked.wish.as_str(), asked.by.as_str()), ("switchover", "somebody"));
    let evidence = report.evidence.unwrap();
    assert_eq!(evidence.fence, Some(fence));
    assert_eq!(evidence.release.unwrap().reason, "switchover");
    assert_eq!(evidence.witness, None, "not asked");
}

#[test]
fn a_release_says_why_and_how_the_database_was_stopped() {
    let mut bench = Bench::healthy();
    bench.store.put_heartbeat(&identity("b", 1), |_| {});
    bench.read();
    bench.step(Event::Died);
    pass(&mut bench, 40);
    bench.acted(fenced_by_kill());
    bench.step(Event::Tick);
    let released = bench.lease_written().unwrap().released.unwrap();
    let fence = released.fence.0.unwrap();
    assert_eq!((fence.why.as_str(), fence.rung.as_str()), ("database_died", "kill"));
    assert_eq!((fence.clean, fence.took_ms), (false, 40));
}

#[test]
fn a_primary_that_opens_again_tells_how_it_was_fenced() {
    let mut bench = Bench::healthy();
    bench.step(Event::Died);
    pass(&mut bench, 40);
    bench.acted(fenced_by_kill());
    bench.step(Event::Tick);
    bench.observe(Process::StoppedPrimary);
    bench.settle();
    bench.read();
    bench.apply(&Key::Lease);
    bench.remember();
    assert_eq!(bench.agent.state(), State::PrimaryInitializing);
    bench.acted(done());
    let report = reported(&bench).unwrap();
    assert_eq!((report.holder.as_str(), report.reason.as_str()), ("a", "lease_kept"));
    assert_eq!(report.at_risk, None, "nobody else's log");
    let fence = report.evidence.unwrap().fence.unwrap();
    assert_eq!((fence.why.as_str(), fence.took_ms), ("database_died", 40));
}

#[test]
fn a_promotion_that_fails_is_told_too() {
    let mut bench = Bench::watching();
    silent_for(&mut bench, 60_000);
    bench.apply(&Key::Lease);
    bench.remember();
    bench.acted(ActionOutcome::Refused("no".to_owned()));
    let report = reported(&bench).unwrap();
    assert_eq!(report.outcome, Ending::GivenUp("promotion_failed".to_owned()));
    assert_eq!((report.epoch, report.writable_ms), (Epoch(6), None));
}

/// The same story with a core whose journal is wiped before every step: but for reports and what a release
/// tells, it asks for the same.
#[test]
fn nothing_that_is_decided_reads_the_journal() {
    for watchdog in [WatchdogMode::Off, WatchdogMode::Required] {
        let policy = Policy { watchdog, ..policy() };
        let mut bench = Bench::watching_with(policy, |_| {});
        let mut other = bench.agent.clone();
        let mut reports = 0;
        for steps in 1..4_000 {
            let event = next_event(&mut bench, steps);
            other.shared.forget_journal();
            let mut expected = other.step(bench.now, event.clone());
            bench.step(event);
            reports += usize::from(reported(&bench).is_some());
            let mut found = bench.effects.clone();
            for effects in [&mut expected, &mut found] {
                effects.retain(|effect| !matches!(effect, Effect::Report(_)));
                effects.iter_mut().for_each(untold);
            }
            assert_eq!(found, expected, "step {steps}");
            assert_eq!(hash(&bench.agent), hash(&other), "step {steps}");
        }
        assert!(reports > 3, "{reports} reports");
    }
}

fn untold(effect: &mut Effect) {
    if let Effect::Write(_, write, _) = effect
        && let Record::Lease(lease) = &mut write.record
        && let Some(release) = &mut lease.released
    {
        release.fence = Aside(None);
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Something that was asked for is answered; every now and then the database dies.
fn next_event(bench: &mut Bench, number: u64) -> Event {
    pass(bench, 10);
    bench.store.clock += 10_000_000;
    if number.is_multiple_of(97) {
        return Event::Died;
    }
    if let WatchdogMode::Required = bench.agent.policy().watchdog
        && number.is_multiple_of(5)
    {
        return Event::Watchdog(WatchdogStatus::Armed(bench.now + seconds(3)));
    }
    if bench.open.is_empty() || number.is_multiple_of(7) {
        let due = bench.agent.deadline().map_or(bench.now, |deadline| deadline.at);
        let wait = due.since(bench.now).min(seconds(1));
        bench.now = bench.now + wait;
        bench.store.clock += i64::try_from(wait.as_nanos()).unwrap();
        return Event::Tick;
    }
    let id = bench.agent.identity().clone();
    match bench.open.remove(0) {
        Effect::Read(op, _) => Event::Read(op, Ok(bench.store.snapshot())),
        Effect::Write(op, write, _) => Event::Written(op, bench.store.write(&id, &write)),
        Effect::Remember(op, _) => Event::Remembered(op, true),
        Effect::Act(op, crate::core::event::Action::Fence { .. }, ..) => {
            Event::Acted(op, if number.is_multiple_of(2) { fenced() } else { fenced_by_kill() })
        }
        Effect::Act(op, ..) => Event::Acted(op, done()),
        Effect::Observe => Event::Observed(seen(match bench.agent.state() {
            State::PrimaryHealthy => Process::RunningPrimary,
            State::PrimaryInitializing => Process::StoppedPrimary,
            _ => Process::RunningStandby,
        })),
        _ => Event::Tick,
    }
}

#[test]
fn the_longest_report_is_small_beside_what_the_store_takes() {
    let bench = taken_over(|_| {});
    let mut report = reported(&bench).unwrap();
    let name = "m".repeat(48);
    let contender = Contender {
        member: member(&name),
        place: Some(u32::MAX),
        timeline: TimelineId(u32::MAX),
        lsn: Lsn(u64::MAX),
        behind: u64::MAX,
        priority: u8::MAX,
        synchronous: true,
        age_ms: Some(u64::MAX),
        against: Some(short(&"\u{1F40C}\u{7}".repeat(1_000))),
    };
    let text = contender.against.as_deref().unwrap();
    assert_eq!((text.chars().count(), text.contains('\u{7}')), (LONGEST_TEXT, false));
    report.contenders = vec![contender; MOST_CONTENDERS];
    report.synchronous = vec![member(&name); MOST_CONTENDERS];
    let header = header(&identity("a", 1), &bench.store.incarnation, 1);
    let length = codec::encode(&header, &Record::Journal(Box::new(report))).len();
    // All places with all their kept revisions take less than half of the store's 8 MiB.
    assert!(length <= 12 * 1024, "{length} bytes");
}

#[test]
fn keys_of_the_journal_have_one_name_each() {
    assert_eq!(crate::core::journal::key(Epoch(65)), Key::Journal(1));
    for (name, key) in [
        ("journal.0", Some(Key::Journal(0))),
        ("journal.31", Some(Key::Journal(31))),
        ("journal.32", None),
        ("journal.07", None),
        ("journal.", None),
        ("journal.+1", None),
    ] {
        assert_eq!(Key::parse(name), key, "{name}");
    }
}
