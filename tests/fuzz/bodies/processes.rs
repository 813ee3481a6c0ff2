//! Files of the server and the kernel. `f`: `postmaster.pid`, `t`: the same and, after a line `%table`, the
//! kernel's table of shared memory. `s`: `/proc/<pid>/stat`, `n`: a list of children.

use harmony_agent::postmaster::decoders;

use super::split;

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    match kind {
        b'f' => pid_file(rest),
        b't' => {
            const MARK: &[u8] = b"\n%table\n";
            let at = rest.windows(MARK.len()).position(|part| part == MARK);
            let Some(at) = at else { return };
            let (file, table) = (&rest[..at], &rest[at + MARK.len()..]);
            pid_file(file);
            let attached = decoders::attached(file, table);
            assert!(attached.is_none() || decoders::pid_file(file).is_some_and(|(_, named)| named));
        }
        b's' => {
            if let Some((command, ..)) = decoders::stat(rest) {
                assert!(command.len() < rest.len());
            }
        }
        b'n' => {
            let found = decoders::numbers(rest);
            // 0 and negative numbers would be whole groups of processes.
            assert!(found.iter().all(|pid| *pid > 0) && found.len() <= rest.len());
        }
        _ => {}
    }
}

fn pid_file(text: &[u8]) {
    if let Some((pid, _)) = decoders::pid_file(text) {
        assert!(pid != 0 && pid != i32::MIN, "{pid} cannot be signalled");
    }
}
