//! What the watchdog decides; pure.
//!
//! Whatever is agreed to may only make the guard stricter or rest on a newer proof of the lease.
//! With nothing to guard any arming is agreed to: a guard is stricter than none.

use std::time::Duration;

use crate::core::ids::Epoch;
use crate::core::time::Instant;

/// Deadlines further ahead are taken for garbage: they would be no guard at all.
pub const HORIZON: Duration = Duration::from_secs(3600);

/// What the watchdog is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Nothing to guard.
    Idle = 0,
    /// It kills the instance at the deadline.
    Armed = 1,
    /// The deadline passed; it kills, and there is no proof yet.
    Firing = 2,
    /// Killed and proven; what comes up again is killed again.
    Fired = 3,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Armed, Self::Firing, Self::Fired];

    /// The phase with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| *phase as u8 == code)
    }
}

/// Why an order was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The deadline has passed already.
    Past = 1,
    /// The deadline lies before the one this epoch has.
    Backwards = 2,
    /// The epoch is older than the one guarded.
    OldEpoch = 3,
    /// It fired in this epoch; a release or a newer epoch has to come first.
    Spent = 4,
    /// It is killing and has no proof yet.
    Firing = 5,
    /// The deadline is beyond the [`HORIZON`].
    TooFar = 6,
    /// Asked to quit while there is something to guard.
    Busy = 7,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Past,
        Self::Backwards,
        Self::OldEpoch,
        Self::Spent,
        Self::Firing,
        Self::TooFar,
        Self::Busy,
    ];

    /// The refusal with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u8 == code)
    }
}

/// The watchdog's state, as it tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The deadline last armed; zero when there never was one.
    pub deadline: Instant,
    /// The epoch last armed.
    pub epoch: Epoch,
    /// How many deadlines passed since it started.
    pub fired: u64,
    /// The epoch in which the last one did.
    pub fired_epoch: Epoch,
}

/// The watchdog's state.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Warden {
    status: Status,
}

impl Default for Warden {
    fn default() -> Self {
        let status = Status {
            phase: Phase::Idle,
            deadline: Instant::ZERO,
            epoch: Epoch(0),
            fired: 0,
            fired_epoch: Epoch(0),
        };
        Self { status }
    }
}

impl Warden {
    /// The state now.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Moves the deadline. A deadline that passed but was not acted on may still be moved: the order
    /// rests on a lease proof that was good before it passed.
    pub fn arm(&mut self, now: Instant, deadline: Instant, epoch: Epoch) -> Result<(), Refusal> {
        let status = self.status;
        match status.phase {
            Phase::Firing => return Err(Refusal::Firing),
            Phase::Armed | Phase::Fired if epoch < status.epoch => return Err(Refusal::OldEpoch),
            Phase::Armed if epoch == status.epoch && deadline < status.deadline => {
                return Err(Refusal::Backwards);
            }
            Phase::Fired if epoch == status.epoch => return Err(Refusal::Spent),
            Phase::Idle | Phase::Armed | Phase::Fired => {}
        }
        if deadline <= now {
            return Err(Refusal::Past);
        }
        if deadline > now + HORIZON {
            return Err(Refusal::TooFar);
        }
        self.status = Status { phase: Phase::Armed, deadline, epoch, ..status };
        Ok(())
    }

    /// Nothing to guard any more, says the agent of `epoch`.
    pub fn release(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        match self.status.phase {
            Phase::Idle => Ok(()),
            Phase::Firing => Err(Refusal::Firing),
            Phase::Armed | Phase::Fired if epoch < self.status.epoch => Err(Refusal::OldEpoch),
            Phase::Armed | Phase::Fired => {
                self.status.phase = Phase::Idle;
                Ok(())
            }
        }
    }

    /// Whether it may exit.
    pub fn may_quit(&self) -> Result<(), Refusal> {
        match self.status.phase {
            Phase::Idle => Ok(()),
            Phase::Armed | Phase::Firing | Phase::Fired => Err(Refusal::Busy),
        }
    }

    /// The deadline has passed by now: true once, then it is firing.
    pub fn expire(&mut self, now: Instant) -> bool {
        let expired = self.status.phase == Phase::Armed && now >= self.status.deadline;
        if expired {
            self.status.phase = Phase::Firing;
            self.status.fired += 1;
            self.status.fired_epoch = self.status.epoch;
        }
        expired
    }

    /// The kill is proven.
    pub fn proven(&mut self) {
        if self.status.phase == Phase::Firing {
            self.status.phase = Phase::Fired;
        }
    }

    /// Another agent than the one whose deadline passed has come: it starts from what it sees, none
    /// of its work is under way, so nothing has to be kept down for it.
    pub fn other_agent(&mut self) {
        if self.status.phase == Phase::Fired {
            self.status.phase = Phase::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn armed(deadline: u64, epoch: u64) -> Warden {
        let mut warden = Warden::default();
        warden.arm(at(0), at(deadline), Epoch(epoch)).unwrap();
        warden
    }

    #[test]
    fn within_an_epoch_the_deadline_only_moves_forward() {
        let mut warden = armed(100, 3);
        assert_eq!(warden.arm(at(1), at(99), Epoch(3)), Err(Refusal::Backwards));
        assert_eq!(warden.arm(at(1), at(200), Epoch(2)), Err(Refusal::OldEpoch));
        assert_eq!(warden.status().deadline, at(100));
        assert_eq!(warden.arm(at(1), at(100), Epoch(3)), Ok(()));
        assert_eq!(warden.arm(at(1), at(150), Epoch(3)), Ok(()));
        assert_eq!(warden.arm(at(1), at(120), Epoch(4)), Ok(()));
        assert_eq!(warden.status().deadline, at(120));
    }

    #[test]
    fn a_deadline_in_the_past_or_beyond_reason_is_refused_and_the_old_one_stands() {
        let mut warden = armed(100, 1);
        assert_eq!(warden.arm(at(150), at(150), Epoch(1)), Err(Refusal::Past));
        assert_eq!(warden.arm(at(150), at(u64::MAX / 1_000_000), Epoch(1)), Err(Refusal::TooFar));
        assert!(warden.expire(at(150)));
    }

    #[test]
    fn it_expires_once_and_keeps_firing_until_proven() {
        let mut warden = armed(100, 1);
        assert!(!warden.expire(at(99)));
        assert!(warden.expire(at(100)));
        assert!(!warden.expire(at(101)));
        assert_eq!(warden.arm(at(101), at(900), Epoch(9)), Err(Refusal::Firing));
        assert_eq!(warden.release(Epoch(9)), Err(Refusal::Firing));
        assert_eq!(warden.may_quit(), Err(Refusal::Busy));
        warden.proven();
        assert_eq!(warden.status().phase, Phase::Fired);
        assert_eq!((warden.status().fired, warden.status().fired_epoch), (1, Epoch(1)));
    }

    #[test]
    fn once_fired_the_epoch_is_spent_until_released() {
        let mut warden = armed(100, 2);
        assert!(warden.expire(at(100)));
        warden.proven();
        assert_eq!(warden.arm(at(101), at(900), Epoch(2)), Err(Refusal::Spent));
        assert_eq!(warden.arm(at(101), at(900), Epoch(1)), Err(Refusal::OldEpoch));
        assert_eq!(warden.release(Epoch(1)), Err(Refusal::OldEpoch));
        let mut newer = warden;
        assert_eq!(newer.arm(at(101), at(900), Epoch(3)), Ok(()));
        assert_eq!(warden.release(Epoch(2)), Ok(()));
        assert_eq!(warden.arm(at(101), at(900), Epoch(2)), Ok(()));
    }

    #[test]
    fn only_the_guarded_epoch_or_a_newer_one_releases() {
        let mut warden = armed(100, 5);
        assert_eq!(warden.release(Epoch(4)), Err(Refusal::OldEpoch));
        assert_eq!(warden.may_quit(), Err(Refusal::Busy));
        assert_eq!(warden.release(Epoch(5)), Ok(()));
        assert!(!warden.expire(at(1000)));
        assert_eq!(warden.may_quit(), Ok(()));
        // A store built anew starts again at a low epoch.
        assert_eq!(warden.arm(at(0), at(100), Epoch(1)), Ok(()));
    }

    #[test]
    fn another_agent_ends_the_watch_over_what_was_killed_but_no_armed_guard() {
        let mut warden = armed(100, 5);
        warden.other_agent();
        assert_eq!(warden.status().phase, Phase::Armed);
        assert!(warden.expire(at(100)));
        warden.other_agent();
        assert_eq!(warden.status().phase, Phase::Firing);
        warden.proven();
        warden.other_agent();
        assert_eq!(warden.status().phase, Phase::Idle);
    }
}
