//! Bad data in the store: what somebody or something wrote there that is none of ours.

use harmony_agent::core::ids::Incarnation;
use harmony_agent::core::records::{Header, Invalid, Key, Record};

use super::store::Content;
use super::{Fact, World};

/// In what way a value is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    /// No JSON, a wrong checksum, too long.
    Garbage,
    /// A release with another major schema wrote it.
    Schema,
    /// Another cluster's record, or one of another life of this store.
    Foreign,
    /// A good record of another kind under this key.
    OtherKind,
    /// What was there some time ago: a lower epoch.
    Old,
}

impl Bad {
    const ALL: [Self; 5] = [Self::Garbage, Self::Schema, Self::Foreign, Self::OtherKind, Self::Old];
}

impl World {
    /// Something bad is written: `detail` says how, by its rest when divided by 5, and then over what.
    pub(crate) fn damage(&mut self, detail: u64) {
        let mut keys = self.store.keys();
        keys.sort_by_key(|key| *key == Key::ClusterState);
        if keys.is_empty() {
            return;
        }
        let detail = usize::try_from(detail).unwrap_or(0);
        let key = keys[detail / 5 % keys.len()].clone();
        let bad = match (Bad::ALL[detail % 5], &key) {
            // Whom the primary had admitted earlier: see the known gaps of `docs/proof.md`.
            (Bad::Old | Bad::OtherKind, Key::ClusterState) => Bad::Garbage,
            (bad, _) => bad,
        };
        let Some(content) = self.bad_content(&key, bad) else { return };
        self.say(format_args!("store: {key} is overwritten: {bad:?}"));
        self.spoilt |= matches!(key, Key::Lease | Key::ClusterState);
        if key == Key::Lease && bad == Bad::Old {
            // As a store restored from a backup is.
            self.rolled_back = Some(self.now);
            self.store_lost();
        } else if key == Key::Lease {
            self.fact(Fact::LeaseDamaged);
        }
        self.store.put(self.now, key, content);
    }

    fn bad_content(&self, key: &Key, bad: Bad) -> Option<Content> {
        let found = self.store.content(key)?;
        let content = match bad {
            Bad::Garbage => Err(Invalid::Damaged("not a record".to_owned())),
            Bad::Schema => Err(Invalid::Schema("schema 9.0.0".to_owned())),
            Bad::Foreign => {
                let (record, header) = found.clone().ok()?;
                let incarnation: Incarnation = "another-cluster".parse().ok()?;
                Ok((record, Header { incarnation, ..header }))
            }
            Bad::OtherKind => {
                let other = |(record, _): &(Record, Header)| {
                    matches!(record, Record::Heartbeat(_)) != matches!(key, Key::Heartbeat(_))
                };
                let keys = self.store.keys();
                let mut all = keys.iter().filter_map(|key| self.store.content(key)?.as_ref().ok());
                Ok(all.find(|content| other(content))?.clone())
            }
            Bad::Old => self.store.backed_up(key)?.clone(),
        };
        Some(content)
    }
}
