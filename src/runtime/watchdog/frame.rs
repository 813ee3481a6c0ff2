//! What agent and watchdog say to each other: frames of a fixed size, each one packet.
//!
//! An agent may be newer than the watchdog that outlived its predecessor, so this layout is frozen;
//! a different one gets another [`VERSION`]. Frames of another version are answered by hanging up:
//! the old watchdog then acts at its deadline, or lingers and goes.
//!
//! Little-endian: magic 4, version 2, kind 1, detail 1, number 8, deadline 8, epoch 8, fired 8,
//! fired epoch 8, pid 4, CRC-32 of all before 4.

use crate::core::ids::Epoch;
use crate::core::time::Instant;

use super::warden::{Phase, Refusal, Status};

/// Bytes of a frame.
pub const SIZE: usize = 56;
/// Version of the layout.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"HAWD";
const BODY: usize = SIZE - 4;

/// What the agent asks, with a number that the reply repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the agent.
    pub number: u64,
    /// What it asks.
    pub order: Order,
}

/// An order to the watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Kill the instance at this time of `CLOCK_BOOTTIME` unless told otherwise before.
    Arm(Instant, Epoch),
    /// The instance is proven down, or is no primary: nothing to guard.
    Release(Epoch),
    /// Say how you are.
    Ping,
    /// Exit, if there is nothing to guard.
    Quit,
}

/// What the watchdog says; always with its whole status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Number of the request; zero when nobody asked.
    pub number: u64,
    /// Answer to the request.
    pub answer: Answer,
    /// Its state after it.
    pub status: Status,
    /// Process id of the watchdog.
    pub pid: u32,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// First words on a connection.
    Hello,
    /// Done as asked.
    Done,
    /// Not done.
    Refused(Refusal),
    /// Unasked: the deadline passed, the status says how far the kill is.
    Fired,
}

impl Request {
    /// As a frame.
    pub fn encode(self) -> [u8; SIZE] {
        let (kind, deadline, epoch) = match self.order {
            Order::Arm(deadline, epoch) => (1, deadline.as_nanos(), epoch.0),
            Order::Release(epoch) => (2, 0, epoch.0),
            Order::Ping => (3, 0, 0),
            Order::Quit => (4, 0, 0),
        };
        Raw { kind, number: self.number, deadline, epoch, ..Raw::default() }.encode()
    }

    /// From a packet; `None` for anything but a whole and unharmed request.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let raw = Raw::decode(packet)?;
        let order = match raw.kind {
            1 => Order::Arm(Instant::from_nanos(raw.deadline), Epoch(raw.epoch)),
            2 => Order::Release(Epoch(raw.epoch)),
            3 => Order::Ping,
            4 => Order::Quit,
            _ => return None,
        };
        Some(Self { number: raw.number, order })
    }
}

impl Reply {
    /// As a frame. The kind has the answer in its low half and the phase above.
    pub fn encode(self) -> [u8; SIZE] {
        let (answer, detail) = match self.answer {
            Answer::Hello => (1, 0),
            Answer::Done => (2, 0),
            Answer::Refused(refusal) => (3, refusal as u8),
            Answer::Fired => (4, 0),
        };
        Raw {
            kind: answer | ((self.status.phase as u8) << 4),
            detail,
            number: self.number,
            deadline: self.status.deadline.as_nanos(),
            epoch: self.status.epoch.0,
            fired: self.status.fired,
            fired_epoch: self.status.fired_epoch.0,
            pid: self.pid,
        }
        .encode()
    }

    /// From a packet; `None` for anything but a whole and unharmed reply.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let raw = Raw::decode(packet)?;
        let answer = match raw.kind & 0x0f {
            1 => Answer::Hello,
            2 => Answer::Done,
            3 => Answer::Refused(Refusal::from_code(raw.detail)?),
            4 => Answer::Fired,
            _ => return None,
        };
        let status = Status {
            phase: Phase::from_code(raw.kind >> 4)?,
            deadline: Instant::from_nanos(raw.deadline),
            epoch: Epoch(raw.epoch),
            fired: raw.fired,
            fired_epoch: Epoch(raw.fired_epoch),
        };
        Some(Self { number: raw.number, answer, status, pid: raw.pid })
    }
}

#[derive(Default)]
struct Raw {
    kind: u8,
    detail: u8,
    number: u64,
    deadline: u64,
    epoch: u64,
    fired: u64,
    fired_epoch: u64,
    pid: u32,
}

impl Raw {
    fn encode(&self) -> [u8; SIZE] {
        let mut frame = [0; SIZE];
        frame[0..4].copy_from_slice(&MAGIC);
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6] = self.kind;
        frame[7] = self.detail;
        let numbers = [self.number, self.deadline, self.epoch, self.fired, self.fired_epoch];
        for (field, number) in frame[8..48].chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        frame[48..52].copy_from_slice(&self.pid.to_le_bytes());
        let sum = crc32fast::hash(&frame[..BODY]);
        frame[BODY..].copy_from_slice(&sum.to_le_bytes());
        frame
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        let frame: &[u8; SIZE] = packet.try_into().ok()?;
        let whole = frame[0..4] == MAGIC
            && frame[4..6] == VERSION.to_le_bytes()
            && frame[BODY..] == crc32fast::hash(&frame[..BODY]).to_le_bytes();
        if !whole {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(frame[at..at + 8].try_into().ok()?));
        Some(Self {
            kind: frame[6],
            detail: frame[7],
            number: number(8)?,
            deadline: number(16)?,
            epoch: number(24)?,
            fired: number(32)?,
            fired_epoch: number(40)?,
            pid: u32::from_le_bytes(frame[48..52].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_what_is_heard() {
        for order in [
            Order::Arm(Instant::from_nanos(u64::MAX), Epoch(7)),
            Order::Release(Epoch(u64::MAX)),
            Order::Ping,
            Order::Quit,
        ] {
            let request = Request { number: 9, order };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for phase in Phase::ALL {
            for answer in [Answer::Hello, Answer::Done, Answer::Refused(Refusal::Past)] {
                let status = Status {
                    phase,
                    deadline: Instant::from_nanos(1),
                    epoch: Epoch(2),
                    fired: 3,
                    fired_epoch: Epoch(4),
                };
                let reply = Reply { number: 5, answer, status, pid: 6 };
                assert_eq!(Reply::decode(&reply.encode()), Some(reply));
            }
        }
    }

    #[test]
    fn a_frame_with_any_bit_turned_or_byte_missing_is_nothing() {
        let order = Order::Arm(Instant::from_millis(1), Epoch(1));
        let frame = Request { number: 1, order }.encode();
        for at in 0..SIZE * 8 {
            let mut bad = frame;
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(Request::decode(&bad), None, "bit {at}");
        }
        for length in 0..SIZE {
            assert_eq!(Request::decode(&frame[..length]), None, "length {length}");
        }
    }
}
