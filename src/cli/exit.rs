//! How the program ends: one error type, one code per kind of failure (sysexits.h).

use std::fmt;
use std::process::ExitCode;

use crate::config::LoadError;

/// What kind of failure it was, as a number scripts can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// What was compared differs.
    Different = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Data read is not what it should be.
    Data = 65,
    /// A file to read is not there.
    NoInput = 66,
    /// Something this depends on does not answer.
    Unavailable = 69,
    /// A mistake of ours.
    Internal = 70,
    /// A file to write cannot be made.
    CannotCreate = 73,
    /// Trying again later may help.
    Temporary = 75,
    /// The system does not let us.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// Why the program ends without having done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// What was read or tried, which rule it broke, what to do; may have several lines.
    pub text: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, text: impl fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::File { .. } => Self::new(Code::NoInput, error),
            LoadError::Invalid { ref problems, ref warnings } => {
                let problems = problems.iter().map(|problem| format!("error: {problem}\n"));
                let warnings = warnings.iter().map(|warning| format!("warning: {warning}\n"));
                let list: String = problems.chain(warnings).collect();
                Self::new(Code::Config, format!("{list}{error}"))
            }
        }
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        (failure.code as u8).into()
    }
}
