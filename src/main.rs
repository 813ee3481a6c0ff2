//! The command line.

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|name| name == "watchdog") {
        std::process::exit(harmony_agent::runtime::watchdog::process::run(args));
    }
}
