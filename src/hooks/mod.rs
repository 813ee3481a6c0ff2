//! Runs the operator's programs on transitions (`adr/0017-hooks.md`).
//!
//! ```text
//!   core ── Effect::BeforePromote ─► program ─► Event::HookEnded     the promotion waits for it
//!   core ── Effect::Became ─► queue ─► program, one after the other   nobody waits for it
//! ```

mod output;
mod program;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::core::event::Transition;
use crate::core::hook::{Hook, HookOutcome};
use crate::core::ids::{ClusterId, MemberId};
use crate::metrics::Metrics;
use crate::supervise::End;
use program::Ended;

/// Transitions that wait to be told; beyond it the oldest is dropped: what is told late is worth least.
const WAITING: usize = 16;

/// Which programs run, and for how long at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Absolute path of a program and its arguments, by hook. No shell.
    pub programs: BTreeMap<Hook, Vec<String>>,
    /// Limit of one run; then the program and all it started are killed.
    pub timeout: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hooks {
    cluster: ClusterId,
    member: MemberId,
    settings: Settings,
    metrics: Metrics,
    queue: Mutex<VecDeque<(Hook, Transition)>>,
    news: Notify,
    /// Told and not ended yet, the one that runs included.
    open: watch::Sender<usize>,
}

impl Hooks {
    /// The hooks of one member. [`Hooks::serve`] has to run for the queued ones.
    pub fn new(
        cluster: ClusterId,
        member: MemberId,
        settings: Settings,
        metrics: Metrics,
    ) -> Arc<Self> {
        for hook in settings.programs.keys() {
            metrics.hook_exists(hook.name());
        }
        let (queue, news, open) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Arc::new(Self { cluster, member, settings, metrics, queue, news, open })
    }

    /// Queues what is to be told of `transition`. Never waits.
    pub fn tell(&self, transition: &Transition) {
        let due =
            Hook::told_of(transition).filter(|hook| self.settings.programs.contains_key(hook));
        for hook in due {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back((hook, transition.clone()));
            self.open.send_modify(|open| *open += 1);
            let dropped = (queue.len() > WAITING).then(|| queue.pop_front()).flatten();
            drop(queue);
            if let Some((hook, transition)) = dropped {
                self.dropped(hook, &transition);
            }
            self.news.notify_one();
        }
    }

    fn dropped(&self, hook: Hook, transition: &Transition) {
        let (to, epoch) = (transition.to.name(), transition.epoch.0);
        tracing::warn!(member = %self.member, hook = hook.name(), to, epoch, "hook not run: too many wait before it");
        self.metrics.hook(hook.name(), "dropped");
        self.over();
    }

    fn over(&self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }

    /// Runs what is queued, one after the other, for ever.
    pub async fn serve(self: Arc<Self>) -> End {
        // Also when a run panics: what it was about has been dealt with.
        struct Over<'a>(&'a Hooks);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.over();
            }
        }
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((hook, transition)) = next else {
                self.news.notified().await;
                continue;
            };
            let over = Over(&self);
            let never = CancellationToken::new();
            drop(self.run(hook, &transition, self.settings.timeout, &never).await);
            drop(over);
        }
    }

    /// Runs the `before_promote` hook now, whatever else is queued: until it ends, for at most
    /// `limit`, or until `cancel` fires.
    pub async fn before_promote(
        &self,
        transition: &Transition,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> HookOutcome {
        match self.run(Hook::BeforePromote, transition, limit, cancel).await {
            Ended::Well => HookOutcome::Succeeded,
            ended @ (Ended::Badly(_) | Ended::NotBegun(_) | Ended::Late(_) | Ended::Cancelled) => {
                HookOutcome::Failed(ended.to_string())
            }
        }
    }

    /// Waits until everything queued has run, at most for one run's limit.
    pub async fn finish(&self) {
        let mut open = self.open.subscribe();
        let done = open.wait_for(|open| *open == 0);
        if tokio::time::timeout(self.settings.timeout, done).await.is_err() {
            tracing::warn!(member = %self.member, left = *self.open.borrow(), "hooks not run: the agent ends");
        }
    }

    async fn run(
        &self,
        hook: Hook,
        transition: &Transition,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Ended {
        let name = hook.name();
        let (member, epoch) = (&self.member, transition.epoch.0);
        let Some(command) = self.settings.programs.get(&hook) else {
            return Ended::NotBegun("no program is configured for it".to_owned());
        };
        tracing::info!(%member, hook = name, epoch, "hook begins");
        let say = |line: &str| tracing::info!(%member, hook = name, epoch, line, "hook says");
        let began = tokio::time::Instant::now();
        let variables = self.variables(hook, transition);
        let ended = program::run(command, &variables, limit, cancel, say).await;
        let ms = began.elapsed().as_millis();
        match &ended {
            Ended::Well => tracing::info!(%member, hook = name, epoch, ms, "hook done"),
            Ended::Badly(_) | Ended::NotBegun(_) | Ended::Late(_) | Ended::Cancelled => {
                let why = ended.to_string();
                tracing::warn!(%member, hook = name, epoch, ms, why, "hook failed");
            }
        }
        self.metrics.hook(name, ended.name());
        ended
    }

    /// What a program finds in its environment, besides `PATH`.
    fn variables(&self, hook: Hook, transition: &Transition) -> Vec<(&'static str, String)> {
        vec![
            ("HARMONY_HOOK", hook.name().to_owned()),
            ("HARMONY_HOOK_CLUSTER", self.cluster.to_string()),
            ("HARMONY_HOOK_MEMBER", self.member.to_string()),
            ("HARMONY_HOOK_EPOCH", transition.epoch.0.to_string()),
            ("HARMONY_HOOK_REASON", transition.reason.name().to_owned()),
            ("HARMONY_HOOK_FROM", transition.from.name().to_owned()),
            ("HARMONY_HOOK_TO", transition.to.name().to_owned()),
        ]
    }
}
