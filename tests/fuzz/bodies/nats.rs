//! Answers of NATS servers. `w`: to a write, `s`: a stream's description, `m`: a message read, `v`: a
//! version.

use harmony_agent::store::nats::decoders::{self, Write};

use super::{assert_says, split};

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    match kind {
        b'w' => match decoders::write(rest) {
            Write::Stored(revision) => assert_ne!(revision, 0),
            Write::Unknown(Some(text)) => drop(text),
            Write::Refused | Write::Unknown(None) => {}
        },
        b's' => match decoders::stream(rest, "harmony_c") {
            Ok(incarnation) => assert_ne!(incarnation.as_str(), "none"),
            Err(error) => assert!(!error.trim().is_empty()),
        },
        b'm' => {
            if let Err(error) = decoders::message(rest, "harmony_c") {
                assert!(!error.trim().is_empty());
            }
        }
        b'v' => {
            if let Err(error) = decoders::server(&String::from_utf8_lossy(rest)) {
                assert!(
                    rest.len() > 1024 || {
                        assert_says(&error);
                        true
                    }
                );
            }
        }
        _ => {}
    }
}
