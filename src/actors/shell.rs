//! The shell around every machine: what is decided goes into the journal, the journal goes to the
//! store, and what waits for the disk is done when the store has answered.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::Addr;

use super::dispatcher::{DispatcherActor, Slots};
use super::engine::EngineActor;
use super::inbox::Inbox;
use super::journal::{Act, Journal};
use super::runner::{self, Order};
use super::scheduler::SchedulerActor;
use super::shared::Shared;
use super::store::{Commit, StoreActor};
use super::sweeper;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::task::Now;
use crate::canvas::machine::{Due, Record};
use crate::canvas::outcome::{Outcome, Value};
use crate::error::Error;
use crate::messages::dispatcher::Drain;
use crate::messages::engine::Launch;
use crate::persistence::codec::{self, Kind};
use crate::persistence::reader::Reader;
use crate::persistence::{StoreError, draft, keys};

/// A batch is sent off when this much is in it, however much more is on its way.
const FULL: u64 = 4_096;

/// What every actor of the engine has: the way to the journal, and to the other actors.
#[derive(Clone, Debug)]
pub(crate) struct Shell(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: RefCell<Journal>,
    /// A batch is being filled or is on its way.
    busy: Cell<bool>,
    /// The number of the last batch taken, rising over all openings of the store.
    commit: Cell<u64>,
    /// Node numbers handed out at run time, by workflow.
    counters: RefCell<HashMap<Id, Seq>>,
    /// Set once a commit has failed or the engine has stopped: nothing is written any more.
    halted: Cell<bool>,
    /// No slot is granted any more.
    draining: Cell<bool>,
    reader: Reader,
    store: Addr<StoreActor>,
    scheduler: Addr<SchedulerActor>,
    engine: OnceCell<Addr<EngineActor>>,
    dispatchers: RefCell<HashMap<String, Addr<DispatcherActor>>>,
    limits: Limits,
    held: Arc<AtomicUsize>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
}

/// How much runs and lives at once.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Members of one group that are materialised.
    pub(crate) window: u64,
    /// Workflows that start in one queue.
    pub(crate) live: usize,
    pub(crate) slots: Slots,
    /// Queues with slots of their own.
    pub(crate) queues: HashMap<String, Slots>,
}

impl Shell {
    pub(crate) fn new(
        reader: Reader,
        store: Addr<StoreActor>,
        scheduler: Addr<SchedulerActor>,
        shared: Arc<Shared>,
        limits: Limits,
        last_commit: u64,
    ) -> Self {
        let inbox = Arc::new(Inbox::default());
        let shell = Self(Rc::new(Inner {
            journal: RefCell::default(),
            busy: Cell::new(false),
            commit: Cell::new(last_commit),
            counters: RefCell::default(),
            halted: Cell::new(false),
            draining: Cell::new(false),
            reader,
            store,
            scheduler,
            engine: OnceCell::new(),
            dispatchers: RefCell::default(),
            limits,
            held: Arc::default(),
            inbox: inbox.clone(),
            shared,
        }));
        actix::spawn(async move { inbox.deliver().await });
        shell
    }

    pub(crate) fn set_engine(&self, engine: Addr<EngineActor>) {
        self.0.engine.set(engine).expect("there is one engine");
    }

    pub(crate) fn engine(&self) -> &Addr<EngineActor> {
        self.0.engine.get().expect("set before anything runs")
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    pub(crate) fn scheduler(&self) -> &Addr<SchedulerActor> {
        &self.0.scheduler
    }

    pub(crate) fn window(&self) -> u64 {
        self.0.limits.window
    }

    pub(crate) fn live_workflows(&self) -> usize {
        self.0.limits.live
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.0.shared.clock.now_ms()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            ms: self.now_ms(),
            random: self.0.shared.clock.random(),
        }
    }

    /// The dispatcher of a queue, started when the queue is first used.
    pub(crate) fn dispatcher(&self, queue: &str) -> Addr<DispatcherActor> {
        use actix::Actor;
        if let Some(dispatcher) = self.0.dispatchers.borrow().get(queue) {
            return dispatcher.clone();
        }
        let limits = &self.0.limits;
        let slots = *limits.queues.get(queue).unwrap_or(&limits.slots);
        let dispatcher = DispatcherActor::new(slots, self.0.held.clone()).start();
        if self.is_draining() {
            dispatcher.do_send(Drain);
        }
        self.0
            .dispatchers
            .borrow_mut()
            .insert(queue.to_owned(), dispatcher.clone());
        dispatcher
    }

    /// Grants no slot any more.
    pub(crate) fn drain(&self) {
        self.0.draining.set(true);
        for dispatcher in self.0.dispatchers.borrow().values() {
            dispatcher.do_send(Drain);
        }
    }

    /// The app is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    /// How many slots are held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.0.held.load(Ordering::Acquire)
    }

    /// Says whether everything decided so far has been committed and acted on.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.0.busy.get()
    }

    /// Adds a record to the stream of supervisor `stream`.
    pub(crate) fn record(&self, stream: Id, record: Record) {
        self.add(|journal| journal.record(stream, record));
    }

    pub(crate) fn put(&self, key: Vec<u8>, value: Vec<u8>) {
        self.add(|journal| journal.put(key, value));
    }

    pub(crate) fn delete(&self, key: Vec<u8>) {
        self.add(|journal| journal.delete(key));
    }

    /// Watchers of `id` look again after this batch.
    pub(crate) fn touch(&self, id: Id) {
        self.add(|journal| journal.touch(id));
    }

    /// Has a task's function called once all that was recorded before it is durable.
    pub(crate) fn run(&self, order: Order) {
        self.add(|journal| journal.run(order));
    }

    /// Does this once all that was recorded before it is durable.
    pub(crate) fn then(&self, act: Act) {
        self.add(|journal| journal.then(act));
    }

    /// Records that these callbacks are to run, and has the engine run them.
    pub(crate) fn launch(&self, root: Id, due: Vec<Due>) {
        for due in due {
            self.record_due(root, &due);
            self.engine().do_send(Launch { root, due });
        }
    }

    pub(crate) fn record_due(&self, root: Id, due: &Due) {
        self.record(root.workflow_stream(), draft::due(due));
    }

    /// The outcome as it is recorded: a value too large for its record is put beside it.
    pub(crate) fn keep(&self, node: Id, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Success(value) => {
                let put = &mut |key, piece| self.put(key, piece);
                Outcome::Success(draft::keep(node, value, put))
            }
            outcome => outcome,
        }
    }

    /// The arguments that a retry gave as they are recorded.
    pub(crate) fn keep_args(&self, node: Id, args: Value) -> Value {
        draft::keep_args(node, args, &mut |key, piece| self.put(key, piece))
    }

    /// Hands out `count` node numbers of workflow `root`.
    pub(crate) fn number(&self, root: Id, count: u64) -> Result<Seq, StoreError> {
        let known = self.0.counters.borrow().get(&root).copied();
        let first = match known {
            Some(next) => next,
            None => match self.reader().counter(root)? {
                Some(next) => next,
                None => self.reader().head(root)?.map_or(0, |head| head.next),
            },
        };
        let next = first + count;
        self.0.counters.borrow_mut().insert(root, next);
        self.put(keys::counter(root), codec::encode(Kind::Counter, &next));
        Ok(first)
    }

    /// The workflow needs no numbers any more.
    pub(crate) fn forget_numbers(&self, root: Id) {
        self.0.counters.borrow_mut().remove(&root);
    }

    /// Starts the numbering of a workflow whose head is not in the store yet.
    pub(crate) fn start_numbers(&self, root: Id, next: Seq) {
        self.0.counters.borrow_mut().insert(root, next);
    }

    /// Ends it all: every waiter is told why, and nothing is written any more, whatever the actors
    /// that are being dropped still say.
    pub(crate) fn close(&self, why: Error) {
        if !self.0.halted.replace(true) {
            self.0.shared.end(why);
            actix::System::current().stop();
        }
    }

    /// Nothing more will happen: an actor that goes now is no loss.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.halted.get()
    }

    /// The store can no longer be trusted, or we cannot. The host process lives on; opening the
    /// store again recovers.
    pub(crate) fn halt(&self, why: Error) {
        if !self.is_closed() {
            tracing::error!(%why, "the engine halts");
        }
        self.close(why);
    }

    fn add(&self, add: impl FnOnce(&mut Journal)) {
        if self.0.halted.get() {
            return;
        }
        add(&mut self.0.journal.borrow_mut());
        if !self.0.busy.replace(true) {
            let shell = self.clone();
            actix::spawn(async move { shell.commit_all().await });
        }
    }

    /// The number that the batch being filled will have.
    pub(crate) fn next_commit(&self) -> u64 {
        self.0.commit.get() + 1
    }

    /// Commits until there is nothing left to commit: at most one batch is on its way, the next
    /// is filled meanwhile.
    async fn commit_all(self) {
        loop {
            self.gather().await;
            let taken = {
                let mut journal = self.0.journal.borrow_mut();
                if journal.is_empty() {
                    self.0.busy.set(false);
                    return;
                }
                self.0.commit.set(self.next_commit());
                journal.take(self.0.commit.get())
            };
            if !taken.batch.is_empty()
                && let Err(error) = self.commit(taken.batch).await
            {
                self.halt(error);
                return;
            }
            if self.0.halted.get() {
                return;
            }
            self.0
                .shared
                .is_durable(self.0.commit.get(), &taken.touched);
            self.call(taken.orders);
            for act in taken.acts {
                self.act(act);
            }
        }
    }

    /// Lets the actors talk until none of them adds anything more, so that what follows from one
    /// event (a step's end, the next step's start) shares a batch. Nothing depends on it but the
    /// number of commits.
    async fn gather(&self) {
        let start = self.0.journal.borrow().added;
        let mut last = start;
        let mut quiet = 0;
        while quiet < 3 {
            tokio::task::yield_now().await;
            let added = self.0.journal.borrow().added;
            if added - start > FULL {
                return;
            }
            quiet = if added == last { quiet + 1 } else { 0 };
            last = added;
        }
    }

    async fn commit(&self, batch: crate::persistence::Batch) -> Result<(), Error> {
        let gone = |_| Error::Halted("the store actor is gone".to_owned());
        let answer = self
            .0
            .store
            .send(Commit(batch))
            .await
            .map_err(|error| Error::Halted(format!("the store actor is gone: {error}")))?;
        answer.await.map_err(gone)?.map_err(Error::from)
    }

    /// Has these functions called. The orders cross over to the runtime together, and are spawned
    /// there, where that wakes no thread for each.
    fn call(&self, orders: Vec<Order>) {
        if !orders.is_empty() {
            self.0.shared.plant().runtime.spawn(async move {
                for order in orders {
                    tokio::spawn(runner::run(order));
                }
            });
        }
    }

    fn act(&self, act: Act) {
        match act {
            // Who no longer waits for its submission loses nothing: it is durable.
            Act::Acknowledge(caller, pin) => drop(caller.send(pin)),
            // Nor who no longer waits for its call.
            Act::Answer(caller, outcome) => drop(caller.send(outcome)),
            Act::KeyIsDurable(message) => self.engine().do_send(message),
            Act::Start(child) => child.start_now(self),
            Act::Respawn(supervisor, message) => supervisor.do_send(message),
            Act::Stored(message) => self.engine().do_send(message),
            Act::Sweep(message) => self.engine().do_send(message),
            Act::Forget(message) => self.engine().do_send(message),
            Act::Done(caller) => drop(caller.send(Ok(()))),
            Act::Purge(root) => {
                let store = self.0.store.clone();
                let shared = self.shared().clone();
                self.0
                    .shared
                    .plant()
                    .runtime
                    .spawn(sweeper::purge(shared, store, root));
            }
        }
    }
}
