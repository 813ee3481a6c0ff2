//! Records as bytes: JSON with a schema version, the store's incarnation, the operation and its
//! author, and a checksum, so that a half-written, damaged, hand-edited or foreign value is told
//! from a record and never obeyed (`docs/protocol.md`, section 2).
//!
//! ```json
//! {"schema":"1.0.0","incarnation":"…","op_id":"…","by":{"member":"a","boot":"…"},
//!  "crc32":"1c291ca3","lease":{…}}
//! ```
//!
//! The checksum covers every other field, serialised by us. Minor schema versions may add fields;
//! another major version is left to those who understand it.

use serde::{Deserialize, Serialize};

use super::{LONGEST_VALUE, Versioned};
use crate::core::ids::{BootId, Incarnation, MemberId};
use crate::core::records::{
    ClusterState, Header, Heartbeat, Invalid, Key, Lease, Record, Slot, Snapshot,
};

/// Version of the records written by this release.
pub const SCHEMA: &str = "1.0.0";

#[derive(Clone, Serialize, Deserialize)]
struct By {
    member: MemberId,
    boot: BootId,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    schema: String,
    incarnation: Incarnation,
    op_id: String,
    by: By,
    crc32: String,
    #[serde(flatten)]
    body: serde_json::Map<String, serde_json::Value>,
}

impl Envelope {
    fn checksum(&self) -> String {
        let mut text = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            self.schema, self.incarnation, self.op_id, self.by.member, self.by.boot
        );
        text.push_str(&serde_json::Value::Object(self.body.clone()).to_string());
        format!("{:08x}", crc32fast::hash(text.as_bytes()))
    }
}

/// Name of an operation in the store: unique, because a boot id is.
pub fn operation(boot: &BootId, number: u64) -> String {
    format!("{boot}-{number}")
}

/// The bytes of `record`.
pub fn encode(header: &Header, record: &Record) -> Vec<u8> {
    let body = match record {
        Record::Lease(lease) => field("lease", lease),
        Record::ClusterState(state) => field("cluster_state", state),
        Record::Heartbeat(heartbeat) => field("heartbeat", heartbeat),
        Record::Journal(report) => field("journal", report),
    };
    let mut envelope = Envelope {
        schema: SCHEMA.to_owned(),
        incarnation: header.incarnation.clone(),
        op_id: header.operation.clone(),
        by: By { member: header.member.clone(), boot: header.boot.clone() },
        crc32: String::new(),
        body,
    };
    envelope.crc32 = envelope.checksum();
    serde_json::to_vec(&envelope)
        .unwrap_or_else(|error| unreachable!("records are plain data: {error}"))
}

fn field<T: Serialize>(name: &str, value: &T) -> serde_json::Map<String, serde_json::Value> {
    let value = serde_json::to_value(value)
        .unwrap_or_else(|error| unreachable!("records are plain data: {error}"));
    serde_json::Map::from_iter([(name.to_owned(), value)])
}

/// The operation that made a value, as far as it can be read: to resolve unknown outcomes.
pub fn operation_of(value: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Operation {
        op_id: String,
    }
    (value.len() <= LONGEST_VALUE)
        .then(|| serde_json::from_slice::<Operation>(value).ok())
        .flatten()
        .map(|found| found.op_id)
}

/// The record in `versioned`, if it is one that this life of the store may obey.
pub fn decode<T>(versioned: &Versioned, name: &str, incarnation: &Incarnation) -> Slot<T>
where
    T: for<'de> Deserialize<'de>,
{
    let revision = versioned.revision;
    match read(&versioned.value, name, incarnation) {
        Ok((header, record)) => {
            Slot::Valid { record, header, revision, created: versioned.created }
        }
        Err(why) => Slot::Invalid { revision, why },
    }
}

fn read<T>(value: &[u8], name: &str, incarnation: &Incarnation) -> Result<(Header, T), Invalid>
where
    T: for<'de> Deserialize<'de>,
{
    let damaged = |why: String| Invalid::Damaged(why);
    if value.len() > LONGEST_VALUE {
        return Err(damaged(format!("{} bytes, longer than any record", value.len())));
    }
    check_schema(value)?;
    let mut envelope: Envelope =
        serde_json::from_slice(value).map_err(|e| damaged(format!("not a record: {e}")))?;
    if envelope.crc32 != envelope.checksum() {
        return Err(damaged("checksum mismatch: damaged, or edited by hand".to_owned()));
    }
    if envelope.incarnation != *incarnation {
        return Err(Invalid::ForeignIncarnation(format!(
            "written for incarnation {}, this store is {incarnation}",
            envelope.incarnation
        )));
    }
    let body = envelope.body.remove(name).ok_or_else(|| damaged(format!("has no {name:?}")))?;
    let record =
        serde_json::from_value(body).map_err(|e| damaged(format!("{name} not understood: {e}")))?;
    let header = Header {
        incarnation: envelope.incarnation,
        operation: envelope.op_id,
        member: envelope.by.member,
        boot: envelope.by.boot,
    };
    Ok((header, record))
}

fn check_schema(value: &[u8]) -> Result<(), Invalid> {
    #[derive(Deserialize)]
    struct Schema {
        schema: String,
    }
    let found: Schema = serde_json::from_slice(value)
        .map_err(|e| Invalid::Damaged(format!("not JSON with a schema version: {e}")))?;
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(&found.schema) == major(SCHEMA) {
        Ok(())
    } else {
        let found: String = found.schema.chars().take(32).collect();
        Err(Invalid::Schema(format!("schema {found:?}, this release reads {SCHEMA}")))
    }
}

/// All records of a listing. Keys that are none of ours are left alone.
pub fn snapshot(listing: &[Versioned], incarnation: &Incarnation) -> Snapshot {
    let mut snapshot = Snapshot { incarnation: Some(incarnation.clone()), ..Snapshot::default() };
    for versioned in listing {
        match &versioned.key {
            Key::Lease => snapshot.lease = decode::<Lease>(versioned, "lease", incarnation),
            Key::ClusterState => {
                snapshot.cluster = decode::<ClusterState>(versioned, "cluster_state", incarnation);
            }
            Key::Heartbeat(member) => {
                let slot = decode::<Heartbeat>(versioned, "heartbeat", incarnation);
                snapshot.heartbeats.insert(member.clone(), slot);
            }
            Key::Journal(_) => {}
        }
    }
    snapshot
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::ids::{Epoch, Revision, TimelineId};
    use crate::core::policy::Reaction;
    use crate::core::records::ClusterSettings;
    use crate::core::synchronous::SynchronousMode;
    use crate::core::time::StoreTime;
    use crate::core::timing::Timing;

    fn header() -> Header {
        Header {
            incarnation: "inc-1".parse().unwrap(),
            operation: "boot-7".to_owned(),
            member: "a".parse().unwrap(),
            boot: "boot".parse().unwrap(),
        }
    }

    fn state() -> ClusterState {
        ClusterState {
            epoch: Epoch(3),
            primary: "a".parse().unwrap(),
            system: Some("7123456789012345678".parse().unwrap()),
            timeline: TimelineId(2),
            members: [].into(),
            drained: [].into(),
            removed: [].into(),
            paused: None,
            order: None,
            answer: None,
            settings: ClusterSettings::default(),
            synchronous: Vec::new(),
            last_transition: "höhe".to_owned(),
        }
    }

    fn slot(value: Vec<u8>) -> Slot<ClusterState> {
        let versioned = Versioned {
            key: Key::ClusterState,
            value,
            revision: Revision(9),
            created: StoreTime(1),
        };
        decode(&versioned, "cluster_state", &header().incarnation)
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let value = encode(&header(), &Record::ClusterState(state()));
        assert_eq!(operation_of(&value).as_deref(), Some("boot-7"));
        let read = slot(value);
        assert_eq!(read.record(), Some(&state()));
        assert_eq!(read.revision(), Some(Revision(9)));
    }

    #[test]
    fn one_changed_byte_is_noticed_or_changes_nothing() {
        let value = encode(&header(), &Record::ClusterState(state()));
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 0x01;
            let read = slot(changed);
            assert!(
                read.record().is_none_or(|found| *found == state()),
                "a flipped bit at {at} was obeyed: {read:?}"
            );
        }
    }

    #[test]
    fn what_must_not_be_obeyed_is_not() {
        let text = String::from_utf8(encode(&header(), &Record::ClusterState(state()))).unwrap();
        let cases = [
            ("".to_owned(), "not JSON"),
            ("{}".to_owned(), "schema"),
            (text.replace("1.0.0", "2.0.0"), "schema \"2.0.0\""),
            (text.replace("\"epoch\":3", "\"epoch\":4"), "checksum"),
            (text.replace("inc-1", "inc-2"), "checksum"),
            ("x".repeat(1 << 20), "longer than any record"),
            (format!("{}]", "[".repeat(20_000)), "not JSON"),
        ];
        for (value, expected) in cases {
            let Slot::Invalid { why, .. } = slot(value.into_bytes()) else {
                panic!("obeyed a value that should say {expected}");
            };
            assert!(why.to_string().contains(expected), "{why} should say {expected}");
        }
        let mut foreign = header();
        foreign.incarnation = "inc-2".parse().unwrap();
        let value = encode(&foreign, &Record::ClusterState(state()));
        assert!(matches!(slot(value), Slot::Invalid { why: Invalid::ForeignIncarnation(_), .. }));
    }

    #[test]
    fn settings_read_back_and_timings_that_break_the_rule_are_no_settings() {
        let ms = Duration::from_millis;
        let timing = Timing {
            heartbeat_interval: ms(250),
            heartbeat_timeout: ms(150),
            failure_threshold: 2,
            fence_timeout: ms(300),
            safety_margin: ms(100),
            lease_duration: ms(1_000),
            clock_drift_ppm: 10_000,
            takeover_step: ms(75),
            cool_down: ms(5_000),
            hand_over_timeout: ms(2_000),
            stop_timeout: ms(10_000),
            start_timeout: ms(30_000),
            promote_timeout: ms(10_000),
            rejoin_timeout: ms(3_600_000),
            shutdown_timeout: ms(20_000),
        };
        let with = |timing: Timing| {
            let settings = ClusterSettings {
                timing: Some(Box::new(timing)),
                priorities: [("b".parse().unwrap(), 0)].into(),
                synchronous_mode: Some(SynchronousMode::Strict),
                on_hung: Some(Reaction::FailOver),
                ..ClusterSettings::default()
            };
            ClusterState { settings, ..state() }
        };
        let kept = with(timing.clone());
        let value = encode(&header(), &Record::ClusterState(kept.clone()));
        assert_eq!(slot(value).record(), Some(&kept));
        let broken = with(Timing { lease_duration: ms(950), ..timing });
        let Slot::Invalid { why, .. } = slot(encode(&header(), &Record::ClusterState(broken)))
        else {
            panic!("obeyed timings that break the rule");
        };
        assert!(why.to_string().contains("breaks the timing rule"), "{why}");
    }

    #[test]
    fn a_later_minor_schema_is_read() {
        let mut envelope: Envelope =
            serde_json::from_slice(&encode(&header(), &Record::ClusterState(state()))).unwrap();
        envelope.schema = "1.7.0".to_owned();
        envelope.body["cluster_state"]["new_field"] = true.into();
        envelope.crc32 = envelope.checksum();
        assert_eq!(slot(serde_json::to_vec(&envelope).unwrap()).record(), Some(&state()));
    }
}
