//! The core does not fall over. Judged by `run::Run::caught`, around everything that happens.

use super::Invariant;

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct NeverPanics;

impl Invariant for NeverPanics {
    fn name(&self) -> &'static str {
        "never_panics"
    }

    fn sentence(&self) -> &'static str {
        "Whatever reaches it, the core does not panic."
    }

    fn source(&self) -> &'static str {
        "section 2 (the envelope)"
    }
}
