//! Frames between agent and watchdog. `q`, `a`: an order or an answer as it comes. `Q`, `A`: the same
//! without its last four bytes, the checksum, which is put behind it here. `w`: orders that a warden gets
//! one after the other, 18 bytes each.

use harmony_agent::core::ids::Epoch;
use harmony_agent::core::time::Instant;
use harmony_agent::runtime::watchdog::frame::{Order, Reply, Request, SIZE};
use harmony_agent::runtime::watchdog::warden::{Phase, Warden};

use super::split;

pub(crate) fn body(data: &[u8]) {
    let Some((kind, rest)) = split(data) else { return };
    match kind {
        b'q' => request(rest),
        b'a' => reply(rest),
        b'Q' => request(&summed(rest)),
        b'A' => reply(&summed(rest)),
        b'w' => warden(rest),
        _ => {}
    }
}

/// What is understood is whole, and is written and understood again.
fn request(packet: &[u8]) {
    let Some(request) = Request::decode(packet) else { return };
    assert_eq!(packet.len(), SIZE);
    assert_eq!(Request::decode(&request.encode()), Some(request));
}

fn reply(packet: &[u8]) {
    let Some(reply) = Reply::decode(packet) else { return };
    assert_eq!(packet.len(), SIZE);
    assert_eq!(Reply::decode(&reply.encode()), Some(reply));
}

fn summed(body: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [body, &(!crc).to_le_bytes()].concat()
}

/// Whatever it is told: within an epoch a deadline does not move back, and one that passed fires.
fn warden(orders: &[u8]) {
    let mut warden = Warden::default();
    let mut now = Instant::from_millis(1_000);
    for order in orders.chunks_exact(18) {
        let number = |at: usize| u64::from_le_bytes(order[at..at + 8].try_into().unwrap());
        let (at, epoch) = (Instant::from_nanos(number(2)), Epoch(number(10)));
        now = now + std::time::Duration::from_millis(u64::from(order[1]));
        let before = warden.status();
        let told = match order[0] % 4 {
            0 => Order::Arm(at, epoch),
            1 => Order::Release(epoch),
            2 => Order::Ping,
            _ => Order::Quit,
        };
        let done = match told {
            Order::Arm(at, epoch) => warden.arm(now, at, epoch).is_ok(),
            Order::Release(epoch) => warden.release(epoch).is_ok(),
            Order::Ping => true,
            Order::Quit => warden.may_quit().is_ok(),
        };
        let after = warden.status();
        assert!(done || before == after, "a refused order changed something: {told:?}");
        if before.phase == Phase::Armed
            && after.phase == Phase::Armed
            && after.epoch == before.epoch
        {
            assert!(after.deadline >= before.deadline, "moved back by {told:?}");
        }
        assert!(
            told != Order::Quit || !done || before.phase == Phase::Idle,
            "quit while {before:?}"
        );
        let armed = after.phase == Phase::Armed && now >= after.deadline;
        if warden.expire(now) {
            assert!(armed);
            assert_eq!(warden.status().phase, Phase::Firing);
            warden.proven();
        } else {
            assert!(!armed, "it did not fire: {after:?}");
        }
    }
}
