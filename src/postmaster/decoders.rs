//! Doors to what reads files of the server and the kernel, for the fuzzing in `tests/fuzz`.

use super::pid_file::PidFile;
use super::table;

/// Process id in `postmaster.pid`, and whether a shared memory segment is named.
pub fn pid_file(text: &[u8]) -> Option<(i32, bool)> {
    PidFile::parse(text).map(|file| (file.pid, file.shared_memory.is_some()))
}

/// How many processes have the segment attached that `postmaster.pid` names, by the kernel's table.
pub fn attached(text: &[u8], segments: &[u8]) -> Option<u64> {
    PidFile::parse(text)?.shared_memory?.attached_in(segments)
}

/// Command, state and parent in `/proc/<pid>/stat`.
pub fn stat(text: &[u8]) -> Option<(&[u8], u8, i32)> {
    table::parse_stat(text)
}

/// Process ids in a list of children.
pub fn numbers(text: &[u8]) -> Vec<i32> {
    table::numbers(text).collect()
}
