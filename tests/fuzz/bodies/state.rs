//! Files in the state directory. `f`: `floor.json` as it lies there, `F`: the floor in it, as JSON, `i`: the
//! instance.

use harmony_agent::core::event::Floor;
use harmony_agent::core::ids::{ClusterId, InstanceId, MemberId};
use harmony_agent::runtime::state_dir::decoders::{floor, write_floor};

use super::split;

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let owner = || -> (ClusterId, MemberId) { ("c".parse().unwrap(), "a".parse().unwrap()) };
    let read = |text: &str| {
        let (cluster, member) = owner();
        floor(text, cluster, member)
    };
    let write = |floor: &Floor| {
        let (cluster, member) = owner();
        String::from_utf8(write_floor(floor, cluster, member).unwrap()).unwrap()
    };
    match kind {
        b'f' => match read(text) {
            Ok(found) => assert_eq!(read(&write(&found)), Ok(found)),
            Err(error) => {
                assert!(error.contains("move the file away") || error.contains("belongs"))
            }
        },
        b'F' => {
            let Ok(given) = serde_json::from_str::<Floor>(text) else { return };
            let written = write(&given);
            assert_eq!(read(&written), Ok(given.clone()));
            // One bit: the same, or not trusted.
            for at in (0..written.len()).step_by(written.len() / 16 + 1) {
                let mut spoilt = written.clone().into_bytes();
                spoilt[at] ^= 1;
                if let Ok(spoilt) = String::from_utf8(spoilt)
                    && let Ok(found) = read(&spoilt)
                {
                    assert_eq!(found, given, "changed at {at}");
                }
            }
        }
        b'i' => {
            if let Ok(instance) = text.trim().parse::<InstanceId>() {
                assert_eq!(instance.as_str(), text.trim());
                assert!(text.trim().len() <= 48);
            }
        }
        _ => {}
    }
}
