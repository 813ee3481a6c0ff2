//! What every simulated agent is told and asks for, recorded as a real one records it
//! (`src/recording`), and asked again: the core depends on nothing but its events and times, and a
//! recording loses nothing of them.

use harmony_agent::core::event::{Effect, Event};
use harmony_agent::core::time::Instant;
use harmony_agent::core::{Agent, Identity};
use harmony_agent::recording::{Replay, Taken, line};

use super::run::recorded;
use super::setup::Setup;

/// Steps between two copies of the core, each of which has to be the one computed until then.
const COPY_EVERY: u64 = 200;

/// The recording of one machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    pub(crate) bytes: Vec<u8>,
    /// The process that is recorded, and its steps.
    process: Option<(Identity, u64)>,
}

impl Recording {
    /// Before a step.
    pub(crate) fn begin(&mut self, agent: &Agent, at: Instant) {
        let same = self.process.as_ref().filter(|(identity, _)| identity == agent.identity());
        let step = same.map_or(1, |(_, step)| step + 1);
        self.process = Some((agent.identity().clone(), step));
        if step % COPY_EVERY == 1 {
            self.bytes.extend(line::start(agent, step, at, 0, String::new()).unwrap());
        }
    }

    /// After it.
    pub(crate) fn end(&mut self, at: Instant, event: &Event, effects: &[Effect]) {
        let step = self.process.as_ref().unwrap().1;
        self.bytes.extend(line::step(step, at, event, effects).unwrap());
    }
}

#[test]
fn every_agents_recording_replays() {
    let (mut steps, mut copies) = (0, 0);
    for seed in 0..12 {
        let (outcome, recordings) = recorded(&Setup::of(seed));
        assert_eq!(outcome.violation, None, "seed {seed}");
        let mut replayed = 0;
        for (m, recording) in recordings.iter().enumerate() {
            let mut replay = Replay::new();
            let told = |taken: &Taken| match taken {
                Taken::Start(_) => copies += 1,
                Taken::Same(_) => {}
                Taken::Cut => panic!("seed {seed}, machine {m}: cut"),
                Taken::Differs(difference) => panic!("seed {seed}, machine {m}: {difference}"),
            };
            if !recording.is_empty() {
                replay.file(&**recording, told).unwrap();
            }
            replayed += replay.steps();
        }
        assert_eq!(replayed, outcome.steps, "seed {seed}");
        steps += replayed;
    }
    assert!(steps > 20_000 && copies > 100, "{steps} steps, {copies} copies");
}
