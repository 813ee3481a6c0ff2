//! For how much of the time in which somebody could write nothing is asked of the protocol, and why: the
//! figures of `docs/proof.md`, "What is assumed".

use super::invariants::is_waking;
use super::run::timed;
use super::setup::Setup;
use super::world::World;

/// True time, in nanoseconds, in which a commit would have been acknowledged: counted by member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    all: u64,
    /// Neither agent nor watchdog could act.
    excused: u64,
    /// Only because the whole machine stood still a moment before.
    waking: u64,
}

impl Times {
    /// So much time is about to pass in which nothing happens.
    pub(crate) fn pass(&mut self, world: &World, nanoseconds: u64) {
        for m in (0..world.machines.len()).filter(|m| world.can_acknowledge(*m)) {
            self.all += nanoseconds;
            if world.machines[m].excused {
                self.excused += nanoseconds;
            } else if is_waking(world, m) {
                self.waking += nanoseconds;
            }
        }
    }
}

#[test]
#[ignore = "figures for docs/proof.md, a few minutes: run it by its name"]
fn how_much_is_not_judged() {
    let mut sum = Times::default();
    for seed in 0..1_000 {
        let Times { all, excused, waking } = timed(&Setup::of(seed));
        sum.all += all;
        sum.excused += excused;
        sum.waking += waking;
    }
    let share = |part: u64| u128::from(part) * 100_000 / u128::from(sum.all);
    let (excused, waking) = (share(sum.excused), share(sum.waking));
    println!("in thousandths of a percent: {excused} excused, {waking} waking; {sum:?}");
}
