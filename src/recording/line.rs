//! The lines of a recording.
//!
//! ```json
//! {"start":{"schema":"1.0.0","agent":"0.1.0","member":"a","boot":"…","time":"…","step":1,"at":…,"lost":0,"state":{…}}}
//! {"step":{"step":1,"at":81240000000,"event":"tick","effects":[]}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::Agent;
use crate::core::event::{Effect, Event};
use crate::core::ids::{BootId, MemberId};
use crate::core::time::Instant;

/// Version of the recordings written by this release. Another major version is not read.
pub const SCHEMA: &str = "1.0.0";

/// How every recording begins.
pub const BEGINS: &str = "{\"start\":{\"schema\":\"";

/// Longest line that is read, in bytes: a core that sees a hundred members, each with the longest
/// record there is, stays below it.
pub const LONGEST_LINE: usize = 16 << 20;

/// From here on the core can be computed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Version of the recording.
    pub schema: String,
    /// Version of the agent.
    pub agent: String,
    /// The member it speaks for.
    pub member: MemberId,
    /// This start of it.
    pub boot: BootId,
    /// Wall time when this line was written, for people.
    pub time: String,
    /// Number of the step that follows, counted from 1 since the agent started.
    pub step: u64,
    /// The boot clock at that step.
    pub at: Instant,
    /// Steps before that one that are not in the recording.
    pub lost: u64,
    /// The core before that step, with identity and settings.
    pub state: Value,
}

/// One step of the core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub step: u64,
    /// The time it was told.
    pub at: Instant,
    /// What it was told.
    pub event: Value,
    /// What it asked for.
    pub effects: Vec<Value>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// From here on the core can be computed again.
    Start(Start),
    /// One step of the core.
    Step(Step),
}

/// The line that starts a recording before step `step` of `agent`. `lost` steps before it are missing.
///
/// # Errors
/// The core cannot be written as JSON, which none of its values gives a cause for.
pub fn start(
    agent: &Agent,
    step: u64,
    at: Instant,
    lost: u64,
    time: String,
) -> serde_json::Result<Vec<u8>> {
    let identity = agent.identity();
    let start = Start {
        schema: SCHEMA.to_owned(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        member: identity.member.clone(),
        boot: identity.boot.clone(),
        time,
        step,
        at,
        lost,
        state: serde_json::to_value(agent)?,
    };
    bytes(&Line::Start(start))
}

/// The line of one step.
///
/// # Errors
/// As [`start`].
pub fn step(
    step: u64,
    at: Instant,
    event: &Event,
    effects: &[Effect],
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        step: u64,
        at: Instant,
        event: &'a Event,
        effects: &'a [Effect],
    }
    #[derive(Serialize)]
    struct Outer<'a> {
        step: Borrowed<'a>,
    }
    bytes(&Outer { step: Borrowed { step, at, event, effects } })
}

fn bytes(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
