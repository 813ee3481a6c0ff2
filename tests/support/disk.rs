//! A small file system of its own, to be filled. Mounting needs root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system, gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `size` (as `mount` takes it) at `path`, an empty directory, for its owner.
    pub(crate) fn mount(path: &Path, size: &str) -> Self {
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata(path).unwrap();
        let option = format!("size={size},mode=755,uid={},gid={}", owner.uid(), owner.gid());
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(path).status();
        assert!(status.unwrap().success());
        Self(path.to_path_buf())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let some = vec![0_u8; size];
            while file.write_all(&some).is_ok() {}
        }
    }

    /// It was filled, and not given back yet.
    pub(crate) fn is_full(&self) -> bool {
        self.0.join("filler").exists()
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing else can be done when it is still in use.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
