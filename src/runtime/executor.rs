//! Runs what the core asks for: every operation is a task with a deadline, an action also with a
//! cancellation token, and ends in exactly one completion, also when it is cancelled, late, or
//! panics.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{Id, JoinError, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::peers::Peers;
use super::state_dir::FloorWriter;
use super::{clock, journal};
use crate::core::event::{
    Action, ActionOutcome, Done, Event, FenceProof, Floor, Ladder, ReadFailure, StoreWrite,
    Transition, WriteOutcome,
};
use crate::core::hook::HookOutcome;
use crate::core::ids::{Epoch, MemberId, OpId};
use crate::core::journal::Report;
use crate::core::promise::PromiseRequest;
use crate::core::records::Address;
use crate::core::time::Instant;
use crate::core::{self, Identity};
use crate::database::Database;
use crate::hooks::Hooks;
use crate::store::{self, Expected, ReadError, Store, codec};

/// How long a cancelled action may take to say what became of it.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// How long writing the floor may take.
const REMEMBER_LIMIT: Duration = Duration::from_secs(5);

/// The share of an operation's limit after which the store itself gives up, so that it can still
/// say what it knows; at the whole limit it is given up from outside.
fn store_limit(limit: Duration) -> Duration {
    limit / 10 * 9
}

/// What kind of completion an operation ends in.
#[derive(Clone, Debug)]
enum Kind {
    Read,
    Write,
    /// Takes as long as it takes, so it can be stopped before its time.
    Act(CancellationToken),
    /// The same.
    Hook(CancellationToken),
    Remember,
}

#[derive(Debug)]
struct Operation {
    op: OpId,
    kind: Kind,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Executor {
    id: Identity,
    database: Arc<dyn Database>,
    floor: FloorWriter,
    tasks: JoinSet<Event>,
    operations: BTreeMap<Id, Operation>,
    root: CancellationToken,
    epochs: BTreeMap<Epoch, CancellationToken>,
    /// Held by the action under way, so that two never run together.
    acting: Arc<Mutex<()>>,
    /// Held while the floor is written: a write cannot be stopped, and another one beside it would
    /// have the same temporary file.
    writing: Arc<Mutex<()>>,
}

impl Executor {
    /// An executor for one member.
    pub fn new(id: Identity, database: Arc<dyn Database>, floor: FloorWriter) -> Self {
        Self {
            id,
            database,
            floor,
            tasks: JoinSet::new(),
            operations: BTreeMap::new(),
            root: CancellationToken::new(),
            epochs: BTreeMap::new(),
            acting: Arc::new(Mutex::new(())),
            writing: Arc::new(Mutex::new(())),
        }
    }

    fn track(&mut self, id: Id, op: OpId, kind: Kind) {
        self.operations.insert(id, Operation { op, kind });
    }

    /// Reads all records.
    pub fn read(&mut self, op: OpId, store: Option<Arc<dyn Store>>, limit: Duration) {
        let task = async move {
            let Some(store) = store else {
                return Event::Read(op, Err(ReadFailure::Unavailable("not connected".to_owned())));
            };
            let answer = match timeout(limit, store.list(store_limit(limit))).await {
                Ok(Ok(listing)) => Ok(codec::snapshot(&listing, &store.incarnation())),
                Ok(Err(ReadError::Unavailable(why))) => Err(ReadFailure::Unavailable(why)),
                Ok(Err(ReadError::Rejected(why))) => Err(ReadFailure::Rejected(why.to_string())),
                Err(_) => Err(ReadFailure::Unavailable("no answer in time".to_owned())),
            };
            Event::Read(op, answer)
        };
        let handle = self.tasks.spawn(task);
        self.track(handle.id(), op, Kind::Read);
    }

    /// Writes one record.
    pub fn write(
        &mut self,
        op: OpId,
        store: Option<Arc<dyn Store>>,
        write: StoreWrite,
        limit: Duration,
    ) {
        let id = self.id.clone();
        let task = async move {
            let Some(store) = store else {
                let cause = "not connected".to_owned();
                return Event::Written(op, WriteOutcome::Unknown { may_land: false, cause });
            };
            let write = encode(&id, store.as_ref(), &write);
            let outcome =
                match timeout(limit, store.compare_and_set(&write, store_limit(limit))).await {
                    Ok(outcome) => translate(outcome),
                    Err(_) => {
                        let cause = "no answer in time".to_owned();
                        WriteOutcome::Unknown { may_land: true, cause }
                    }
                };
            Event::Written(op, outcome)
        };
        let handle = self.tasks.spawn(task);
        self.track(handle.id(), op, Kind::Write);
    }

    /// Does something to the database in the name of `epoch`. What would make it writable is not
    /// begun when the right to write, which ends at `right`, has run out meanwhile (a freeze between
    /// the decision and the act).
    pub fn act(
        &mut self,
        op: OpId,
        action: Action,
        epoch: Epoch,
        limit: Duration,
        right: Option<Instant>,
    ) {
        let token = self.in_the_name_of(epoch);
        let task = act(
            op,
            action,
            limit,
            right,
            Arc::clone(&self.database),
            Arc::clone(&self.acting),
            token.clone(),
        );
        let handle = self.tasks.spawn(task);
        self.track(handle.id(), op, Kind::Act(token));
    }

    /// Fires when `epoch` has ended.
    fn in_the_name_of(&mut self, epoch: Epoch) -> CancellationToken {
        let root = &self.root;
        self.epochs.entry(epoch).or_insert_with(|| root.child_token()).child_token()
    }

    /// Runs the `before_promote` hook in the name of its transition's epoch.
    pub fn before_promote(
        &mut self,
        op: OpId,
        hooks: &Arc<Hooks>,
        transition: Transition,
        limit: Duration,
    ) {
        let token = self.in_the_name_of(transition.epoch);
        let (hooks, ended) = (Arc::clone(hooks), token.clone());
        let task = async move {
            Event::HookEnded(op, hooks.before_promote(&transition, limit, &ended).await)
        };
        let handle = self.tasks.spawn(task);
        self.track(handle.id(), op, Kind::Hook(token));
    }

    /// Writes the floor to disk.
    pub fn remember(&mut self, op: OpId, floor: Floor) {
        let writer = self.floor.clone();
        let write = move || writer.write(&floor);
        let task = remember(op, Arc::clone(&self.writing), REMEMBER_LIMIT, write);
        let handle = self.tasks.spawn(task);
        self.track(handle.id(), op, Kind::Remember);
    }

    /// Writes a report into the journal. Nobody waits for it.
    pub(super) fn report(&mut self, store: journal::Opened, report: Report) {
        let id = self.id.clone();
        self.tasks.spawn(async move {
            journal::keep(&id, &store, report).await;
            Event::Tick
        });
    }

    /// Asks a member for a promise.
    pub fn ask(
        &mut self,
        peers: &Arc<Peers>,
        member: MemberId,
        address: Address,
        request: PromiseRequest,
        limit: Duration,
    ) {
        let peers = Arc::clone(peers);
        self.tasks.spawn(async move {
            let answer = peers.ask(&member, address, request, limit).await;
            answer.map_or(Event::Tick, Event::PromiseAnswered)
        });
    }

    /// Stops an action or a hook; it still answers.
    pub fn cancel(&mut self, op: OpId) {
        for operation in self.operations.values().filter(|operation| operation.op == op) {
            if let Kind::Act(token) | Kind::Hook(token) = &operation.kind {
                token.cancel();
            }
        }
    }

    /// Stops every action and hook done in the name of an epoch before `current`. Epoch 0 is nobody's name.
    pub fn epoch_ended(&mut self, current: Epoch) {
        let ended = |epoch: &Epoch| *epoch > Epoch(0) && *epoch < current;
        self.epochs.retain(|epoch, token| {
            if ended(epoch) {
                token.cancel();
            }
            !ended(epoch)
        });
    }

    /// The next completion; pending while nothing runs.
    pub async fn next(&mut self) -> Event {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, event))) => {
                self.operations.remove(&id);
                event
            }
            Some(Err(error)) => self.broken(&error),
            None => std::future::pending().await,
        }
    }

    /// A task that panicked or was aborted is an outcome nobody knows.
    fn broken(&mut self, error: &JoinError) -> Event {
        tracing::error!(%error, "task broke");
        let why = format!("task broke: {error}");
        match self.operations.remove(&error.id()) {
            Some(Operation { op, kind: Kind::Read }) => {
                Event::Read(op, Err(ReadFailure::Unavailable(why)))
            }
            Some(Operation { op, kind: Kind::Write }) => {
                Event::Written(op, WriteOutcome::Unknown { may_land: true, cause: why })
            }
            Some(Operation { op, kind: Kind::Act(_) }) => {
                Event::Acted(op, ActionOutcome::Unknown(why))
            }
            Some(Operation { op, kind: Kind::Hook(_) }) => {
                Event::HookEnded(op, HookOutcome::Failed(why))
            }
            Some(Operation { op, kind: Kind::Remember }) => Event::Remembered(op, false),
            None => Event::Tick,
        }
    }

    /// Cancels the actions and waits for all operations, at most for `limit`.
    pub async fn close(&mut self, limit: Duration) {
        self.root.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(limit, drained).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "operations still running at exit");
            self.tasks.abort_all();
        }
    }
}

fn encode(id: &Identity, store: &dyn Store, write: &StoreWrite) -> store::Write {
    let header = core::header(id, &store.incarnation(), write.number);
    store::Write {
        key: write.key.clone(),
        expected: write.expected.map_or(Expected::Absent, Expected::Revision),
        value: codec::encode(&header, &write.record),
        operation: header.operation,
    }
}

fn translate(outcome: store::WriteOutcome) -> WriteOutcome {
    match outcome {
        store::WriteOutcome::Applied { revision } => WriteOutcome::Applied(revision),
        store::WriteOutcome::Refused { .. } => WriteOutcome::Refused,
        store::WriteOutcome::Unknown { cause } => WriteOutcome::Unknown { may_land: true, cause },
        store::WriteOutcome::NotSent { cause } => WriteOutcome::Unknown { may_land: false, cause },
        store::WriteOutcome::Rejected(why) => WriteOutcome::Rejected(why.to_string()),
    }
}

/// A directory that hangs is not waited for; what was begun there goes on, and keeps the next one
/// from beginning until it has ended.
async fn remember(
    op: OpId,
    writing: Arc<Mutex<()>>,
    limit: Duration,
    write: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Event {
    let written = async {
        let guard = writing.lock_owned().await;
        let write = move || {
            let _guard = guard;
            write()
        };
        spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let written = timeout(limit, written).await.unwrap_or_else(|_| {
        let text = format!("not on disk within {limit:?}; look after the disk of state_dir");
        Err(io::Error::other(text))
    });
    if let Err(error) = &written {
        tracing::error!(%error, "floor not written");
    }
    Event::Remembered(op, written.is_ok())
}

async fn act(
    op: OpId,
    action: Action,
    limit: Duration,
    right: Option<Instant>,
    database: Arc<dyn Database>,
    acting: Arc<Mutex<()>>,
    token: CancellationToken,
) -> Event {
    let outcome = match action {
        Action::Fence { .. } => fence(&action, limit, database.as_ref(), acting, &token).await,
        Action::Bootstrap
        | Action::Clone { .. }
        | Action::Follow { .. }
        | Action::Rejoin { .. }
        | Action::StartPrimary
        | Action::Promote
        | Action::PromoteWith { .. }
        | Action::Demote { .. }
        | Action::Require { .. }
        | Action::Checkpoint => {
            // The one before was cancelled: this one begins when that one has ended.
            tokio::select! {
                _guard = acting.lock_owned() => {
                    if has_run_out(&action, right) {
                        let why = "the lease had run out before it began".to_owned();
                        return Event::Acted(op, ActionOutcome::Refused(why));
                    }
                    bounded(&action, limit, database.as_ref(), &token).await
                }
                () = token.cancelled() => ActionOutcome::Refused("cancelled before it began".to_owned()),
                () = sleep(limit) => ActionOutcome::Refused("the action before did not end".to_owned()),
            }
        }
    };
    Event::Acted(op, outcome)
}

/// The action would make the database writable, and the right to write has ended.
fn has_run_out(action: &Action, right: Option<Instant>) -> bool {
    match action {
        Action::Promote | Action::PromoteWith { .. } | Action::StartPrimary => {
            right.is_some_and(|end| clock::now() >= end)
        }
        Action::Bootstrap
        | Action::Clone { .. }
        | Action::Follow { .. }
        | Action::Rejoin { .. }
        | Action::Demote { .. }
        | Action::Require { .. }
        | Action::Checkpoint
        | Action::Fence { .. } => false,
    }
}

async fn bounded(
    action: &Action,
    limit: Duration,
    database: &dyn Database,
    token: &CancellationToken,
) -> ActionOutcome {
    let inner = token.child_token();
    let mut running = database.act(action, inner.clone());
    tokio::select! {
        outcome = &mut running => return outcome,
        () = token.cancelled() => {}
        () = sleep(limit) => inner.cancel(),
    }
    match timeout(CANCEL_GRACE, running).await {
        Ok(outcome) => outcome,
        Err(_) => ActionOutcome::Unknown("did not end after having been cancelled".to_owned()),
    }
}

/// A fence starts at once, whatever else runs. Its proof counts only when nothing that could start
/// the database again is left: after waiting for that, it is proven once more.
async fn fence(
    action: &Action,
    limit: Duration,
    database: &dyn Database,
    acting: Arc<Mutex<()>>,
    token: &CancellationToken,
) -> ActionOutcome {
    if let Ok(_guard) = Arc::clone(&acting).try_lock_owned() {
        return bounded(action, limit, database, token).await;
    }
    let first = bounded(action, limit, database, token).await;
    let ActionOutcome::Applied(Done::Fenced(first)) = first else { return first };
    let Ok(_guard) = timeout(limit, acting.lock_owned()).await else {
        return ActionOutcome::Unknown("an earlier action does not end".to_owned());
    };
    let kill = Action::Fence { ladder: Ladder { fast: Duration::ZERO, immediate: Duration::ZERO } };
    match bounded(&kill, limit, database, token).await {
        ActionOutcome::Applied(Done::Fenced(proof)) => {
            ActionOutcome::Applied(Done::Fenced(FenceProof {
                clean: first.clean && proof.clean,
                ..proof
            }))
        }
        other @ (ActionOutcome::Applied(_)
        | ActionOutcome::Refused(_)
        | ActionOutcome::Unknown(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Longer than a thread of this test takes to begin.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_floor_that_hangs_is_answered_for_and_holds_back_the_next() {
        let writing = Arc::new(Mutex::new(()));
        let remember = |op, limit, write: Box<dyn FnOnce() -> io::Result<()> + Send>| {
            timeout(LIMIT * 2, remember(OpId(op), Arc::clone(&writing), limit, write))
        };
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let hangs = move || {
            begin.send(()).unwrap();
            released.recv().map_err(io::Error::other)
        };
        let short = Duration::from_millis(50);
        // Also when the thread begins only after the answer.
        let answer = remember(1, short, Box::new(hangs)).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(1), false));
        begun.recv_timeout(LIMIT).unwrap();
        let (told, ran) = mpsc::channel();
        let second = move || told.send(()).map_err(io::Error::other);
        let answer = remember(2, short, Box::new(second)).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(2), false));
        assert!(ran.try_recv().is_err(), "two writers at once");
        release.send(()).unwrap();
        let answer = remember(3, LIMIT, Box::new(|| Ok(()))).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(3), true));
        // Given up before it began: it never does.
        assert!(ran.try_recv().is_err(), "written after all");
        let answer = remember(4, LIMIT, Box::new(|| panic!("broken by a test"))).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(4), false));
        let answer = remember(5, LIMIT, Box::new(|| Err(io::Error::other("full")))).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(5), false));
        let answer = remember(6, LIMIT, Box::new(|| Ok(()))).await.unwrap();
        assert_eq!(answer, Event::Remembered(OpId(6), true));
    }
}
