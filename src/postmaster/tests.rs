use super::*;

#[test]
fn a_directory_that_does_not_exist_has_nothing_to_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = Instance::new(&dir.path().join("absent")).unwrap();
    assert!(instance.postmaster().unwrap().is_none());
    assert_eq!(instance.remnants().unwrap(), 0);
    assert_eq!(instance.kill(Duration::ZERO).unwrap(), Killed { killed: 0 });
}

#[test]
fn a_file_naming_this_very_process_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let mut instance = Instance::new(dir.path()).unwrap();
    assert!(instance.postmaster().unwrap().is_none());
    assert_eq!(instance.kill(Duration::ZERO).unwrap(), Killed { killed: 0 });
}

#[test]
fn the_clock_goes_on() {
    let first = now();
    assert!(first > Instant::ZERO);
    assert!(now() >= first);
}
