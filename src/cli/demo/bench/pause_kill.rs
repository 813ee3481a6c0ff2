//! The primary's node dies while transitions are paused: nobody takes over until they are resumed.

use super::{AWAY, Bench, Taken};
use crate::cli::demo::facts::{Broken, Facts};
use crate::cli::demo::hand;
use crate::cli::demo::ledger::SharedLedger;
use crate::cli::demo::report::Milliseconds;
use crate::cli::demo::said::Said;
use crate::postmaster::now;

use super::strike::Injected;

impl Bench<'_> {
    /// Pauses, kills the node of the member at `primary`, sees that nobody takes over, resumes.
    ///
    /// # Errors
    /// Somebody took over while transitions were paused ([`Broken`]), or nobody afterwards.
    pub(super) async fn pause_kill(
        &mut self,
        ledger: &SharedLedger,
        primary: usize,
    ) -> anyhow::Result<Taken> {
        hand::pause(self.config).await?;
        let met = |said: &[Option<Said>]| {
            said.iter().all(|it| it.as_ref().is_some_and(|it| it.is_paused))
        };
        self.cluster.until("every member knows of the pause", AWAY, met).await?;
        let before = hand::holder(self.config).await?;
        let marks = self.log_lengths();
        let killed = self.fault.inject(&self.cluster.members[primary])?;
        let name = &self.cluster.members[primary].name;
        self.cluster.board.say(format!("transitions are paused; node-kill of the primary {name}"));

        let time = self.long_enough();
        let meanwhile = "while transitions were paused";
        self.nobody_takes_over(ledger, primary, (killed, time), meanwhile).await?;
        let (holder, epoch) = hand::holder(self.config).await?;
        if (&holder, epoch) != (&before.0, before.1) {
            let text = format!("{holder} holds the lease of epoch {epoch}, taken {meanwhile}");
            return Err(Broken(text).into());
        }
        let still = now().since(killed);
        let resumed = hand::resume(self.config).await?;
        self.cluster.board.say(format!("resumed, after nobody took over for {still:.1?}"));

        let injected = Injected { member: primary, at: resumed, running: None, order: None };
        let outcome = self.watch(ledger, injected).await?;
        let gap = self.gap(ledger, killed, outcome.end);
        let phases = self.phases(&marks, injected, outcome)?;
        let rejoin = self.rejoin(injected, outcome).await?;
        let facts = outcome.failover.map(|first| Facts::PauseKill {
            paused_ms: Milliseconds::of(still),
            takeovers_while_paused: epoch.0 - before.1.0,
            resume_to_commit_ms: Milliseconds::of(first.at.since(resumed)),
        });
        Ok(Taken { gap, phases, rejoin, facts })
    }
}
