//! What every mix of faults has to end in, and the dice for it.

use std::time::Duration;

use tokio::time::Instant;

use super::kills::leads;
use super::site::{Site, Two};
use crate::live::cluster::has_alarm;

/// The longest a pair may take until one leads and the other follows.
const LIMIT: Duration = Duration::from_secs(60);

/// Numbers from a seed.
pub(in crate::cnpg) struct Dice(u64);

impl Dice {
    /// From `CNPG_SEED`; without it always the same.
    pub(in crate::cnpg) fn of_environment() -> Self {
        let seed = std::env::var("CNPG_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Self::of(seed)
    }

    /// From this seed.
    pub(in crate::cnpg) fn of(seed: u64) -> Self {
        println!("CNPG_SEED={seed}");
        Self(seed)
    }

    /// Less than `limit`.
    pub(in crate::cnpg) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// Waits until one leads and the other follows. Who ended in a crash says that it has to be built anew,
/// stays down, and is; how many were.
pub(super) fn settle(two: &mut Two) -> u32 {
    let end = Instant::now() + LIMIT;
    let ports = two.ports();
    let mut rebuilt = 0;
    loop {
        let (first, second) = (leads(&two.a), leads(&two.b));
        assert!(!(first && second), "two lead\n{}", told(two));
        let pair = match (first, second) {
            (true, _) => Some((&two.a, &mut two.b)),
            (_, true) => Some((&two.b, &mut two.a)),
            (false, false) => None,
        };
        if let Some((primary, other)) = pair {
            let said = other.member.status();
            if said["state"] == "replica_watching" && said["database"]["streaming"] == true {
                return rebuilt;
            }
            if has_alarm(&said, "rejoin_failed") {
                assert!(!other.member.is_writable(), "{}", other.member.log());
                let primary = primary.name;
                println!("{} is built anew\n{}", other.name, self::said(other));
                other.rebuild(primary, ports);
                rebuilt += 1;
            }
        }
        assert!(Instant::now() < end, "it does not settle\n{}", told(two));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What there is to say about a pair that is not as it should be.
pub(super) fn told(two: &Two) -> String {
    [&two.a, &two.b].map(said).join("\n")
}

fn said(site: &Site) -> String {
    let log = site.member.log();
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(40)..].join("\n");
    let status = site.member.status();
    format!("{}\n{:#}\n{}\n{status:#}\n{end}", site.name, site.cluster(), site.double.told())
}
