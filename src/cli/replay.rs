//! `harmony-agent replay`: the core, asked again.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use serde_json::Value;

use super::exit::{Code, Failure};
use super::output;
use crate::recording::replay::Trouble;
use crate::recording::{Replay, Start, Step, Taken};

/// Arguments of `replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Recordings (record.file), in order: the one before first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print the steps: time, event, and what the core asked for
    #[arg(long)]
    pub show: bool,
    /// Print the steps from this one on
    #[arg(long, value_name = "STEP", requires = "show")]
    pub from: Option<u64>,
}

/// Replays recordings and says whether the core would do the same again.
///
/// # Errors
/// It would not (1), a recording is not there (66), or is none that can be replayed (65).
pub fn replay(arguments: &Arguments) -> Result<(), Failure> {
    let mut replay = Replay::new();
    for path in &arguments.files {
        let shown = path.display();
        let file = File::open(path).map_err(|error| {
            let text = format!("{shown} cannot be read: {error}; name the file of record.file");
            Failure::new(Code::NoInput, text)
        })?;
        let mut outcome = Ok(());
        let mut different = None;
        let read = replay.file(BufReader::new(file), |taken| {
            if outcome.is_err() {
                return;
            }
            outcome = match taken {
                Taken::Start(start) => output::print(&output::plain(&started(start))),
                Taken::Same(step) if wanted(arguments, step) => {
                    output::print(&output::plain(&told(step)))
                }
                Taken::Same(_) => Ok(()),
                Taken::Cut => output::print("the last line is cut off: not replayed"),
                Taken::Differs(difference) => {
                    different = Some(difference.to_string());
                    Ok(())
                }
            };
        });
        outcome?;
        read.map_err(|error| {
            let missing = matches!(error.what, Trouble::Unreadable(_));
            let code = if missing { Code::NoInput } else { Code::Data };
            Failure::new(code, format!("{shown}: {error}"))
        })?;
        if let Some(difference) = different {
            output::print(&output::plain(&difference))?;
            let steps = replay.steps();
            let text = format!("{shown}: {steps} steps, then a difference");
            return Err(Failure::new(Code::Different, text));
        }
    }
    output::print(&format!("{} steps, no difference", replay.steps()))
}

fn wanted(arguments: &Arguments, step: &Step) -> bool {
    arguments.show && arguments.from.is_none_or(|from| step.step >= from)
}

fn started(start: &Start) -> String {
    let Start { agent, member, boot, time, step, at, lost, .. } = start;
    let lost = match lost {
        0 => String::new(),
        _ => format!("; {lost} steps before are not in the recording"),
    };
    let ours = env!("CARGO_PKG_VERSION");
    let other = match agent == ours {
        true => String::new(),
        false => format!("; replayed by {ours}: a difference may be one between the releases"),
    };
    format!(
        "member {member}, boot {boot}, agent {agent}: from step {step} at {at}, {time}{lost}{other}"
    )
}

/// A step in a few lines.
fn told(step: &Step) -> String {
    let mut text = format!("{} {} ← {}", step.step, step.at, short(&step.event));
    for effect in &step.effects {
        text.push_str("\n    → ");
        text.push_str(&short(effect));
    }
    text
}

/// Longest text of an event or effect in one line.
const WIDTH: usize = 200;

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= WIDTH {
        return text;
    }
    text.chars().take(WIDTH).chain(['…']).collect()
}
