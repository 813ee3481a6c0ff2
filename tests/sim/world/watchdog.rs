//! The watchdog process (its decisions are the real [`Warden`]'s) and the agent's side of it, as
//! `src/runtime/watchdog/process.rs` and `client.rs` have them.

use harmony_agent::core::event::{Event, Guard, WatchdogStatus};
use harmony_agent::core::ids::Epoch;
use harmony_agent::core::time::Instant;
use harmony_agent::runtime::watchdog::warden::{Phase, Status, Warden};

use super::fault::Kind;
use super::network::MOMENT;
use super::{Item, World};
use crate::sim::mutant::Mutant;
use crate::sim::setup::MS;

/// What an agent orders.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Order {
    Connect,
    Arm(Instant, Epoch),
    Release(Epoch),
    Ping,
}

/// What the agent's side hears.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Hears {
    /// The watchdog's word on itself.
    Status(u32, Status),
    /// The connection ended.
    Lost(u32),
    /// Time to look for a watchdog.
    Connect,
}

/// A watchdog process.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Dog {
    pub(crate) number: u32,
    pub(crate) warden: Warden,
    pub(crate) frozen: bool,
    pub(crate) deferred: Vec<Item>,
    /// The agent it is connected to.
    agent: Option<u32>,
    armed_by: Option<u32>,
    alone_since: u64,
    /// The timer that is waited for.
    timer: Option<u64>,
}

/// The agent's side.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Keeper {
    wish: Option<Guard>,
    /// The watchdog it is connected to, and what that said last.
    link: Option<(u32, Status)>,
    /// When something was last said, and since when there has been no answer.
    asked: u64,
    unanswered: Option<u64>,
    armed_epoch: Option<Epoch>,
    published: Option<WatchdogStatus>,
    backoff: u64,
}

const QUIET: u64 = 1_000 * MS;
const STALL: u64 = 4_000 * MS;
const LINGER: u64 = 10_000 * MS;
const SWEEP: u64 = 200 * MS;

impl World {
    // ---- the agent's side

    /// Looks for the watchdog after `delay`, starting one when there is none.
    pub(crate) fn keeper_connects(&mut self, m: usize, delay: u64) {
        let Some(agent) = &self.machines[m].agent else { return };
        self.later(delay, Item::KeeperHears(m, agent.life, Hears::Connect));
    }

    /// The core told the watchdog something.
    pub(crate) fn wish(&mut self, m: usize, guard: Guard) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        agent.keeper.wish = Some(guard);
        if let (Some(Mutant::DogInvented), Guard::Until(deadline, _)) = (self.setup.mutant, guard) {
            let life = agent.life;
            let status = Event::Watchdog(WatchdogStatus::Armed(deadline));
            return self.later(MOMENT, Item::Tell(m, life, Box::new(status)));
        }
        self.keeper_speaks(m);
    }

    fn keeper_speaks(&mut self, m: usize) {
        let (now, local) = (self.now, self.local(m));
        let Some(agent) = &mut self.machines[m].agent else { return };
        let (life, keeper) = (agent.life, &mut agent.keeper);
        let Some((dog, theirs)) = keeper.link else { return };
        let order = keeper.order(theirs, local);
        if let Order::Arm(_, epoch) = order {
            keeper.armed_epoch = keeper.armed_epoch.max(Some(epoch));
        }
        keeper.asked = now;
        keeper.unanswered.get_or_insert(now);
        let delay = self.rng.range(MOMENT / 4, MOMENT * 5);
        self.later(delay, Item::DogHears(m, dog, life, order));
        self.later(QUIET, Item::Keeper(m, life));
    }

    /// Nothing was heard for a while.
    pub(crate) fn keeper_quiet(&mut self, m: usize) {
        let now = self.now;
        let Some(agent) = &mut self.machines[m].agent else { return };
        let keeper = &mut agent.keeper;
        if keeper.link.is_none() || now < keeper.asked + QUIET {
            return;
        }
        if keeper.unanswered.is_some_and(|since| now > since + STALL) {
            self.keeper_lost(m);
        } else {
            self.keeper_speaks(m);
        }
    }

    fn keeper_lost(&mut self, m: usize) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        agent.keeper.link = None;
        agent.keeper.unanswered = None;
        let backoff = agent.keeper.backoff.clamp(50 * MS, 2_000 * MS);
        agent.keeper.backoff = backoff * 2;
        self.keeper_connects(m, backoff);
        self.keeper_publishes(m, WatchdogStatus::Down);
    }

    pub(crate) fn keeper_hears(&mut self, m: usize, what: Hears) {
        let Some(agent) = &mut self.machines[m].agent else { return };
        let life = agent.life;
        match what {
            Hears::Connect => {
                if agent.keeper.link.is_some() {
                    return;
                }
                match &self.machines[m].dog {
                    // A frozen one never says hello; the attempt is given up and begins again.
                    Some(dog) if dog.frozen => self.keeper_connects(m, 3_000 * MS),
                    Some(dog) => {
                        let number = dog.number;
                        self.later(MOMENT, Item::DogHears(m, number, life, Order::Connect));
                        self.keeper_connects(m, 3_000 * MS);
                    }
                    None => {
                        let delay = self.rng.range(5 * MS, 60 * MS);
                        self.later(delay, Item::StartDog(m, life));
                        self.keeper_connects(m, 3_000 * MS);
                    }
                }
            }
            Hears::Lost(dog) => {
                if agent.keeper.link.is_some_and(|(linked, _)| linked == dog) {
                    self.keeper_lost(m);
                }
            }
            Hears::Status(dog, status) => {
                let fresh = agent.keeper.link.is_none();
                agent.keeper.link = Some((dog, status));
                agent.keeper.unanswered = None;
                agent.keeper.backoff = 0;
                let told = match status.phase {
                    Phase::Idle | Phase::Fired => WatchdogStatus::Idle,
                    Phase::Armed | Phase::Firing => WatchdogStatus::Armed(status.deadline),
                };
                if fresh {
                    self.keeper_speaks(m);
                }
                self.keeper_publishes(m, told);
            }
        }
    }

    fn keeper_publishes(&mut self, m: usize, status: WatchdogStatus) {
        let lies = self.setup.mutant == Some(Mutant::DogInvented);
        let Some(agent) = &mut self.machines[m].agent else { return };
        let status = match agent.keeper.wish {
            Some(Guard::Until(deadline, _)) if lies => WatchdogStatus::Armed(deadline),
            _ => status,
        };
        if agent.keeper.published != Some(status) {
            agent.keeper.published = Some(status);
            self.feed(m, Event::Watchdog(status));
        }
    }

    // ---- the process

    /// A watchdog was started by the agent of `life`.
    pub(crate) fn start_dog(&mut self, m: usize, life: u32) {
        let machine = &mut self.machines[m];
        let there = machine.agent.as_ref().is_some_and(|agent| agent.life == life);
        if machine.dog.is_some() || !machine.on || !there {
            return;
        }
        if self.fault_on(m, Kind::NoDog) {
            return;
        }
        let machine = &mut self.machines[m];
        machine.dogs += 1;
        let number = machine.dogs;
        machine.dog = Some(Dog {
            number,
            warden: Warden::default(),
            frozen: false,
            deferred: Vec::new(),
            agent: None,
            armed_by: None,
            alone_since: self.now,
            timer: None,
        });
        self.later(MOMENT, Item::DogHears(m, number, life, Order::Connect));
        self.dog_timer(m);
    }

    /// The agent's process is gone: whoever was connected to it notices.
    pub(crate) fn agent_gone(&mut self, m: usize) {
        let now = self.now;
        if let Some(dog) = &mut self.machines[m].dog {
            dog.agent = None;
            dog.alone_since = now;
        }
        self.dog_timer(m);
    }

    /// The watchdog's process is gone.
    pub(crate) fn dog_gone(&mut self, m: usize) {
        let Some(dog) = self.machines[m].dog.take() else { return };
        if let Some(agent) = &self.machines[m].agent {
            let life = agent.life;
            self.later(MOMENT, Item::KeeperHears(m, life, Hears::Lost(dog.number)));
        }
    }

    pub(crate) fn dog_hears(&mut self, m: usize, life: u32, order: Order) {
        let local = self.local(m);
        let alive = self.machines[m].agent.as_ref().is_some_and(|agent| agent.life == life);
        let Some(dog) = &mut self.machines[m].dog else { return };
        match order {
            Order::Connect if alive => {
                dog.agent = Some(life);
                if dog.armed_by != Some(life) {
                    dog.warden.other_agent();
                }
            }
            _ if dog.agent != Some(life) => {}
            Order::Arm(deadline, epoch) => {
                if dog.warden.arm(local, deadline, epoch).is_ok() {
                    dog.armed_by = Some(life);
                }
            }
            Order::Release(epoch) => drop(dog.warden.release(epoch)),
            Order::Connect | Order::Ping => {}
        }
        self.dog_says(m);
        self.dog_looks(m);
    }

    fn dog_says(&mut self, m: usize) {
        let Some(dog) = &self.machines[m].dog else { return };
        let Some(life) = dog.agent else { return };
        let what = Hears::Status(dog.number, dog.warden.status());
        let delay = self.rng.range(MOMENT / 4, MOMENT * 5);
        self.later(delay, Item::KeeperHears(m, life, what));
    }

    fn dog_timer(&mut self, m: usize) {
        let clock = self.machines[m].clock.clone();
        let now = self.now;
        let Some(dog) = &mut self.machines[m].dog else { return };
        let linger = dog.agent.is_none().then_some(dog.alone_since + LINGER);
        let wake = match dog.warden.status().phase {
            Phase::Idle => linger,
            Phase::Armed => Some(clock.when(dog.warden.status().deadline)),
            Phase::Firing => Some(now + 5 * MS),
            Phase::Fired => Some(linger.map_or(now + SWEEP, |at| at.min(now + SWEEP))),
        };
        if wake == dog.timer {
            return;
        }
        dog.timer = wake;
        let number = dog.number;
        if let Some(at) = wake {
            let late = self.rng.below(3 * MS);
            // One that is asleep looks again and again.
            let asleep = self.setup.mutant == Some(Mutant::DogAsleep);
            let late = if asleep { late.max(5 * MS) } else { late };
            let delay = at.saturating_sub(self.now) + late;
            self.later(delay, Item::Dog(m, number));
        }
    }

    /// The watchdog looks at its clock.
    pub(crate) fn dog_looks(&mut self, m: usize) {
        let (now, local) = (self.now, self.local(m));
        let running = self.machines[m].db.is_running();
        let asleep = self.setup.mutant == Some(Mutant::DogAsleep);
        let Some(dog) = &mut self.machines[m].dog else { return };
        if dog.timer.is_some_and(|at| at <= now) {
            dog.timer = None;
        }
        let fires = !asleep && dog.warden.expire(local);
        let linger_over = dog.agent.is_none() && now >= dog.alone_since + LINGER;
        match dog.warden.status().phase {
            Phase::Idle if linger_over => return self.dog_gone(m),
            Phase::Fired if linger_over => return self.dog_gone(m),
            Phase::Idle | Phase::Armed => {}
            Phase::Firing => {
                if !running {
                    dog.warden.proven();
                    if dog.armed_by != dog.agent && dog.agent.is_some() {
                        dog.warden.other_agent();
                    }
                    self.dog_says(m);
                } else if fires {
                    let name = self.name(m);
                    self.say(format_args!("{name}: watchdog fires"));
                    self.dog_says(m);
                }
                self.kill_server(m);
            }
            Phase::Fired => self.kill_server(m),
        }
        self.dog_timer(m);
    }

    /// The watchdog stands ready to end the database.
    pub(crate) fn is_guarded(&self, m: usize) -> bool {
        self.machines[m]
            .dog
            .as_ref()
            .is_some_and(|dog| !dog.frozen && dog.warden.status().phase != Phase::Idle)
    }
}

impl Keeper {
    /// A look for silence at this time may find any.
    pub(crate) fn is_due(&self, at: u64) -> bool {
        at >= self.asked + QUIET
    }

    /// What to say: the guard while the watchdog does not have it, else a mere ping.
    fn order(&self, theirs: Status, now: Instant) -> Order {
        match self.wish {
            Some(Guard::Until(deadline, epoch)) if deadline > now => {
                let has = theirs.phase == Phase::Armed
                    && (theirs.epoch > epoch
                        || theirs.epoch == epoch && theirs.deadline >= deadline);
                if has { Order::Ping } else { Order::Arm(deadline, epoch) }
            }
            Some(Guard::Released) if theirs.phase != Phase::Idle => {
                Order::Release(self.armed_epoch.unwrap_or(theirs.epoch))
            }
            Some(Guard::Until(..) | Guard::Released) | None => Order::Ping,
        }
    }
}
