//! What the demo does to a primary.

use std::fs;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::cleanup::processes;
use super::member::Member;
use crate::core::time::Instant;
use crate::postmaster::now;

/// A fault, injected into the primary of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Nothing happens; what is measured is the noise
    #[default]
    None,
    /// Agent, watchdog and PostgreSQL are killed with -9 at once, as if the machine lost power
    NodeKill,
    /// The postmaster is killed with -9; its agent lives
    PgKill,
    /// The agent is killed with -9; PostgreSQL lives, and no agent comes back before the end of the run
    AgentKill,
    /// The agent is stopped (SIGSTOP) until the end of the run; PostgreSQL lives
    AgentFreeze,
    /// The agent is killed with -9 and started again at once
    AgentRestart,
    /// The agent is told to stop (SIGTERM). It hands over, unless told otherwise by
    /// --set shutdown.on_sigterm=leave_running: then it is started again at once
    AgentTerm,
    /// No fault: another primary is asked for, as `harmony-agent switchover` does
    Switchover,
    /// No fault: a member of higher priority that does not lead is to lead again, as
    /// `harmony-agent failback` asks for it
    Failback,
    /// Transitions are paused, as by `harmony-agent pause`, and the primary's node is killed; nobody takes
    /// over before they are resumed
    PauseKill,
    /// The store takes no writes for three times as long as a takeover waits (SQLite)
    StoreOutage,
    /// A new, empty store stands in the place of the store for as long, then the old one is put back
    /// (SQLite)
    StoreReplace,
}

impl Fault {
    /// As on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NodeKill => "node-kill",
            Self::PgKill => "pg-kill",
            Self::AgentKill => "agent-kill",
            Self::AgentFreeze => "agent-freeze",
            Self::AgentRestart => "agent-restart",
            Self::AgentTerm => "agent-term",
            Self::Switchover => "switchover",
            Self::Failback => "failback",
            Self::PauseKill => "pause-kill",
            Self::StoreOutage => "store-outage",
            Self::StoreReplace => "store-replace",
        }
    }

    /// Somebody else has to be there to take over.
    pub(super) fn needs_another(self) -> bool {
        match self {
            Self::None
            | Self::PgKill
            | Self::AgentRestart
            | Self::StoreOutage
            | Self::StoreReplace => false,
            Self::NodeKill
            | Self::AgentKill
            | Self::AgentFreeze
            | Self::AgentTerm
            | Self::Switchover
            | Self::Failback
            | Self::PauseKill => true,
        }
    }

    /// It is done to the store, which therefore has to be the demo's own.
    pub(super) fn is_of_store(self) -> bool {
        matches!(self, Self::StoreOutage | Self::StoreReplace)
    }

    /// Does it to `member`; returns the moment right before. What is asked for, or done to the store, is
    /// not done here.
    ///
    /// # Errors
    /// Something that was to be signalled is not there.
    pub(super) fn inject(self, member: &Member) -> anyhow::Result<Instant> {
        // Everything is looked up first: finding a process takes longer than killing it.
        match self {
            Self::None
            | Self::Switchover
            | Self::Failback
            | Self::StoreOutage
            | Self::StoreReplace => Ok(now()),
            Self::NodeKill | Self::PauseKill => kill_node(member),
            Self::PgKill => {
                let Some(postmaster) = member.postmaster() else {
                    bail!("the primary {} has no postmaster to kill", member.name)
                };
                let at = now();
                kill_process(postmaster, Signal::KILL).context("kill the postmaster")?;
                Ok(at)
            }
            Self::AgentKill | Self::AgentRestart => signal(member, Signal::KILL),
            Self::AgentFreeze => signal(member, Signal::STOP),
            Self::AgentTerm => signal(member, Signal::TERM),
        }
    }
}

fn signal(member: &Member, signal: Signal) -> anyhow::Result<Instant> {
    let at = now();
    member.signal(signal)?;
    Ok(at)
}

fn kill_node(member: &Member) -> anyhow::Result<Instant> {
    let Some(agent) = member.agent_pid() else {
        bail!("the agent of {} is not running", member.name)
    };
    let mut all = processes(&member.dir);
    if let Some(postmaster) = member.postmaster() {
        all.extend(children(postmaster));
        all.push(postmaster);
    }
    // The agent first, so that it sees nothing of what happens to the rest.
    all.retain(|pid| *pid != agent);
    all.insert(0, agent);
    let at = now();
    for pid in all {
        // A backend may have ended by itself, or be in the list twice.
        let _ = kill_process(pid, Signal::KILL);
    }
    // Whoever was started while the list was made.
    for pid in processes(&member.dir) {
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok(at)
}

fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}
