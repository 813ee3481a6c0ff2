//! Parse, run, map the error to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The watchdog stays small and depends on nothing that the agent sets up.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|name| name == "watchdog") {
        std::process::exit(harmony_agent::runtime::watchdog::process::run(arguments));
    }
    harmony_agent::tls::install();
    harmony_agent::cli::main(std::env::args_os())
}
