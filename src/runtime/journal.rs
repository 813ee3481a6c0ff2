//! Writes reports into the journal. Whatever becomes of one holds nothing up and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::core::Identity;
use crate::core::ids::Epoch;
use crate::core::journal::{self, Place, Report};
use crate::core::records::{Header, Record, Slot};
use crate::store::{Expected, Store, Write, WriteOutcome, codec};

/// The store, once it could be opened.
pub(super) type Opened = watch::Receiver<Option<Arc<dyn Store>>>;

/// Limit of one operation of the store.
const LIMIT: Duration = Duration::from_secs(3);

/// Pauses between tries: about a minute in all, so that a store that is away for a moment is outlasted.
const PAUSES: [u64; 7] = [0, 1, 2, 4, 8, 16, 32];

/// Writes `report` at its place, tries again for about a minute, then gives up with a line in the log.
pub(super) async fn keep(id: &Identity, store: &Opened, report: Report) {
    keep_within(id, store, report, PAUSES.map(Duration::from_secs)).await;
}

async fn keep_within(
    id: &Identity,
    store: &Opened,
    mut report: Report,
    pauses: impl IntoIterator<Item = Duration>,
) {
    report.at = jiff::Timestamp::now().to_string();
    let epoch = report.epoch;
    let record = Record::Journal(Box::new(report));
    let mut trouble = String::new();
    for (number, pause) in pauses.into_iter().enumerate() {
        sleep(pause).await;
        let store = store.borrow().clone();
        let Some(store) = store else {
            "not connected".clone_into(&mut trouble);
            continue;
        };
        match attempt(id, store.as_ref(), epoch, &record, number).await {
            Ok(Place::Written | Place::Free(_)) => {
                tracing::debug!(epoch = epoch.0, "journal: report written");
                return;
            }
            Ok(Place::Taken) => {
                "its place in the ring has a later report, or one that is not ours to replace"
                    .clone_into(&mut trouble);
                break;
            }
            Err(why) => trouble = why,
        }
    }
    tracing::warn!(
        epoch = epoch.0,
        trouble,
        "journal: the report of this epoch is not in the store"
    );
}

/// Reads what is at the place, and replaces it if it may be.
async fn attempt(
    id: &Identity,
    store: &dyn Store,
    epoch: Epoch,
    record: &Record,
    number: usize,
) -> Result<Place, String> {
    let key = journal::key(epoch);
    let incarnation = store.incarnation();
    let found = store.read(&key, LIMIT).await.map_err(|error| error.to_string())?;
    let slot = found.map_or(Slot::Absent, |found| codec::decode(&found, "journal", &incarnation));
    let place = journal::place(&slot, epoch, &id.boot);
    let Place::Free(revision) = place else { return Ok(place) };
    // Another expectation is another write, with a name of its own.
    let operation = format!("{}-journal-{epoch}-{number}", id.boot);
    let (member, boot) = (id.member.clone(), id.boot.clone());
    let header = Header { incarnation, operation: operation.clone(), member, boot };
    let value = codec::encode(&header, record);
    let expected = revision.map_or(Expected::Absent, Expected::Revision);
    match store.compare_and_set(&Write { key, expected, value, operation }, LIMIT).await {
        WriteOutcome::Applied { .. } => Ok(place),
        WriteOutcome::Refused { .. } => Err("somebody else wrote there meanwhile".to_owned()),
        WriteOutcome::Unknown { cause } | WriteOutcome::NotSent { cause } => Err(cause),
        WriteOutcome::Rejected(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::journal::Ending;
    use crate::core::records::{Address, Key};
    use crate::store::memory::Memory;

    fn identity(boot: &str) -> Identity {
        Identity {
            member: "a".parse().unwrap(),
            boot: boot.parse().unwrap(),
            instance: "instance".parse().unwrap(),
            address: Address { host: "a".to_owned(), port: 5432, http: None },
        }
    }

    fn report(epoch: u64) -> Report {
        Report {
            epoch: Epoch(epoch),
            holder: "a".parse().unwrap(),
            reason: "holder_silent".to_owned(),
            outcome: Ending::Opened,
            at: String::new(),
            evidence: None,
            asked: None,
            contenders: Vec::new(),
            at_risk: None,
            synchronous: Vec::new(),
            phases: Vec::new(),
            writable_ms: Some(1),
        }
    }

    async fn kept(store: &dyn Store, slot: u8) -> Option<Epoch> {
        let found = store.read(&Key::Journal(slot), LIMIT).await.unwrap()?;
        let slot = codec::decode::<Report>(&found, "journal", &store.incarnation());
        slot.record().map(|report| report.epoch)
    }

    #[tokio::test]
    async fn the_ring_goes_round_and_only_grows() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let (_sender, receiver) = watch::channel(Some(Arc::clone(&store)));
        let keep = |epoch| keep_as("boot-1", &receiver, epoch);
        for (epoch, kept_then) in [(1, 1), (33, 33), (1, 33), (33, 33), (65, 65)] {
            keep(epoch).await;
            assert_eq!(kept(store.as_ref(), 1).await, Some(Epoch(kept_then)), "after {epoch}");
        }
        keep(64).await;
        assert_eq!(kept(store.as_ref(), 0).await, Some(Epoch(64)));
        assert_eq!(store.list(LIMIT).await.unwrap(), [], "agents do not read the journal");
    }

    async fn keep_as(boot: &str, store: &Opened, epoch: u64) {
        let pauses = [0, 1, 1].map(Duration::from_millis);
        keep_within(&identity(boot), store, report(epoch), pauses).await;
    }

    #[tokio::test]
    async fn a_store_that_comes_late_is_waited_for_and_not_for_ever() {
        let (sender, receiver) = watch::channel(None);
        keep_as("boot-1", &receiver, 7).await;
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let comes = async {
            sleep(Duration::from_millis(20)).await;
            sender.send_replace(Some(Arc::clone(&store)));
        };
        let pauses = [0, 50, 50, 5_000].map(Duration::from_millis);
        let id = identity("boot-1");
        tokio::join!(comes, keep_within(&id, &receiver, report(8), pauses));
        assert_eq!(kept(store.as_ref(), 7).await, None);
        assert_eq!(kept(store.as_ref(), 8).await, Some(Epoch(8)));
    }

    #[tokio::test]
    async fn another_agents_report_of_the_same_epoch_stays() {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        let (_sender, receiver) = watch::channel(Some(Arc::clone(&store)));
        keep_as("boot-1", &receiver, 7).await;
        let before = store.read(&Key::Journal(7), LIMIT).await.unwrap();
        keep_as("boot-2", &receiver, 7).await;
        assert_eq!(store.read(&Key::Journal(7), LIMIT).await.unwrap(), before);
    }
}
