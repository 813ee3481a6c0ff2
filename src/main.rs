//! Parse, run, map the error to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    harmony_agent::tls::install();
    harmony_agent::cli::main(std::env::args_os())
}
