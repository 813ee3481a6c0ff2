//! What a program prints, as lines for the log: bounded, and without control characters.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::sleep;

/// Lines of one stream that are passed on.
const LINES: usize = 100;

/// Bytes of a line that are passed on.
const LONGEST: usize = 500;

/// Pause between reads once nothing is passed on any more: the program must not block on a full pipe,
/// and reading as fast as it prints would be work that the agent needs its time for.
const PAUSE: Duration = Duration::from_millis(10);

/// Reads to the end; `say` gets each line, up to [`LINES`].
pub(super) async fn read(source: Option<impl AsyncRead + Unpin>, say: &(impl Fn(&str) + Sync)) {
    let Some(mut source) = source else { return };
    let mut lines = Lines { line: Vec::new(), count: 0, say };
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        lines.take(&buffer[..count]);
        if lines.count > LINES {
            sleep(PAUSE).await;
        }
    }
    lines.end();
}

struct Lines<'a, S: Fn(&str)> {
    line: Vec<u8>,
    count: usize,
    say: &'a S,
}

impl<S: Fn(&str)> Lines<'_, S> {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.count > LINES {
                return;
            }
            match byte {
                b'\n' => self.end(),
                byte if self.line.len() < LONGEST => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end(&mut self) {
        let text: String = String::from_utf8_lossy(&std::mem::take(&mut self.line))
            .trim_end()
            .chars()
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        if text.is_empty() || self.count > LINES {
            return;
        }
        self.count += 1;
        if self.count > LINES {
            (self.say)("… and more, which is not logged");
        } else {
            (self.say)(&text);
        }
    }
}
