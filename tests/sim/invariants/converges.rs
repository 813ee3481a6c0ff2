//! What the protocol is for. Judged by `run::Run::until_converged`, when a cluster has come up and when
//! all faults have ended.

use super::Invariant;

/// See the module's documentation.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Converges;

impl Invariant for Converges {
    fn name(&self) -> &'static str {
        "converges"
    }

    fn sentence(&self) -> &'static str {
        "Once everything works again, there is one primary, and every other member follows it, within the bound."
    }

    fn source(&self) -> &'static str {
        "section 6 (what follows a fence), section 7, section 8"
    }
}
