//! The only place where time passes.
//!
//! ```text
//!   signals ─┐                       ┌─► executor ─► store · database · state directory
//!   store ───┤  Event    ┌───────┐   │      │
//!   database ┼──────────►│ agent │ Effect   └─► completion (exactly one) ─► Event
//!   watchdog ┤  driver   └───────┘   ├─► watchdog
//!   peers ───┤                       ├─► peers
//!   clock ───┘                       └─► logs · metrics · status
//! ```

pub mod clock;
pub mod driver;
pub mod executor;
mod journal;
pub mod peers;
pub mod recorder;
pub mod recording;
mod reload;
mod said;
pub mod show;
pub mod start;
pub mod state_dir;
pub mod watchdog;
