//! The settings of an app, and its start.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::App;
use super::lifecycle::{self, EngineThread, Running};
use super::node::NodeSettings;
use super::runtime::MAX_WORKERS;
use super::seat::{Seat, Source};
use crate::actors::context::{Limits, TrialSettings};
use crate::actors::dispatch::dispatcher::{QueueSlots, Slots};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::breaker::Breaker;
use crate::canvas::quarantine::policy::{QuarantineHook, QuarantinePolicy, QuarantinedTask};
use crate::canvas::rate_limit::RateLimit;
use crate::canvas::schedule::Schedule;
use crate::canvas::{Accepts, Canvas};
use crate::clock::Clock;
use crate::eager::EagerStore;
use crate::error::{Error, Result, StartError};
use crate::persistence::{Durability, LOCK_TIMEOUT};
use crate::task::{AppData, PayloadLimit, Registry, SharedLimits, TaskEntry, refuse_long_name};

/// Configures an [`App`]; created by [`App::open`], completed by [`start`](Self::start).
#[derive(Debug)]
#[must_use = "an app does nothing until it is started"]
pub struct AppBuilder {
    store: Source,
    tasks: Vec<TaskEntry>,
    data: AppData,
    limits: SharedLimits,
    durability: Durability,
    retention: Duration,
    pub(crate) grace: Duration,
    window: u64,
    live: u64,
    async_slots: u64,
    blocking_slots: u64,
    /// Queues with slots of their own, and how many of either kind.
    queues: HashMap<String, u64>,
    worker_threads: u64,
    is_paused: bool,
    trials: TrialSettings,
    quarantine: QuarantinePolicy,
    on_quarantine: Option<QuarantineHook>,
    pending_limit: Load,
    max_payload: u64,
    clock: Clock,
    lock_timeout: Duration,
    schedules: Vec<(String, Schedule, Canvas)>,
}

impl AppBuilder {
    pub(super) fn new(store: Source) -> Self {
        let cores = thread::available_parallelism().map_or(2, |cores| cores.get() as u64);
        Self {
            store,
            tasks: Vec::new(),
            data: AppData::default(),
            limits: SharedLimits::default(),
            durability: Durability::default(),
            retention: Duration::from_secs(24 * 60 * 60),
            grace: Duration::from_secs(25),
            window: 2_048,
            live: 10_000,
            async_slots: 1_024,
            blocking_slots: cores,
            queues: HashMap::new(),
            worker_threads: cores,
            is_paused: false,
            trials: TrialSettings {
                crashes: 3,
                note_aborts: true,
            },
            quarantine: QuarantinePolicy::default(),
            on_quarantine: None,
            pending_limit: Load {
                tasks: 10_000_000,
                bytes: 10 << 30,
            },
            max_payload: PayloadLimit::DEFAULT,
            clock: Clock::system(),
            lock_timeout: LOCK_TIMEOUT,
            schedules: Vec::new(),
        }
    }

    /// Registers tasks, listed with [`tasks!`](crate::tasks!): every task that this store has
    /// unfinished work for, and every task to be submitted. Work under a name that is no longer
    /// registered, or with arguments that its task no longer takes, is [parked](App::parked).
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = TaskEntry>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Gives a value to the tasks, which take it as a parameter [`Data<T>`](crate::Data) or with
    /// [`TaskContext::data`](crate::TaskContext::data): a connection pool, a client, settings. An
    /// app has one value of each type; for a second one of a type, wrap it in a type of its own.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # struct Pool; impl Pool { fn connect(_: &str) -> Self { Self } fn count(&self) -> u64 { 7 } }
    /// #[task]
    /// async fn count_users(pool: Data<Pool>) -> u64 {
    ///     pool.count()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory()
    ///     .data(Pool::connect("postgres://localhost"))
    ///     .tasks(tasks![count_users])
    ///     .start()
    ///     .await?;
    /// assert_eq!(app.apply_async(count_users.s()).await?.get().await?, 7);
    /// # app.shutdown().await }
    /// ```
    pub fn data<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.data.insert(value);
        self
    }

    /// Sets a limit that tasks share: at most so many attempts of all tasks that name it start in
    /// a period, in the whole app, over restarts. Setting it again replaces it.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::RateLimit;
    /// #[task(limit = "stripe")]
    /// async fn charge(order: u64) -> u64 { order }
    ///
    /// #[task(limit = "stripe", rate_limit = "1/s")]
    /// async fn refund(order: u64) -> u64 { order }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    ///
    /// let app = App::in_memory()
    ///     .limit("stripe", "100/s")
    ///     .limit("mail", RateLimit::per_minute(600).burst(50))
    ///     .tasks(tasks![charge, refund])
    ///     .start()
    ///     .await?;
    /// assert_eq!(app.apply_async(charge.s(7)).await?.get().await?, 7);
    /// # app.shutdown().await }
    /// ```
    ///
    /// `start()` fails with [`StartError::InvalidLimit`] if the limit allows nothing or is no
    /// [rate](RateLimit), and with [`StartError::UnknownLimit`] if a task names a limit that is not
    /// set.
    pub fn limit<L>(mut self, name: impl Into<String>, limit: L) -> Self
    where
        L: TryInto<RateLimit, Error: fmt::Display>,
    {
        let limit = limit.try_into().map_err(|error| error.to_string());
        self.limits.rates.insert(name.into(), limit);
        self
    }

    /// Sets how many attempts of the tasks that [name](crate::TaskOptions::limit) this limit run at
    /// once, in the whole app and whatever their queues; at least 1. The limit may have a
    /// [rate](Self::limit) besides.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(limit = "database")]
    /// async fn export(table: String) -> u64 { table.len() as u64 }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    ///
    /// let app = App::in_memory()
    ///     .limit_concurrency("database", 4)
    ///     .tasks(tasks![export])
    ///     .start()
    ///     .await?;
    /// assert_eq!(app.apply_async(export.s("orders".to_owned())).await?.get().await?, 6);
    /// # app.shutdown().await }
    /// ```
    pub fn limit_concurrency(mut self, name: impl Into<String>, attempts: u32) -> Self {
        self.limits.concurrency.insert(name.into(), attempts);
        self
    }

    /// Sets a circuit breaker: while a service fails, the tasks that
    /// [name](crate::TaskOptions::breaker) the breaker do not start. Setting it again replaces it.
    ///
    /// It opens when so many attempts of these tasks have failed in a period, and stays open for
    /// another; then one attempt probes. If that succeeds, all tasks go on; if it fails, the breaker
    /// is open again. Meanwhile tasks wait without a slot, or fail at once
    /// ([`TaskOptions::on_open`](crate::TaskOptions::on_open)). The state holds over restarts, and
    /// [`App::breakers`] shows it.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::{Breaker, BreakerState};
    /// # use std::time::Duration;
    /// #[task(breaker = "stripe")]
    /// async fn charge(order: u64) -> Result<u64, TaskError> {
    ///     Err(TaskError::new(format!("order {order}: no answer")))
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    ///
    /// let stripe = Breaker::failures(1)
    ///     .within(Duration::from_secs(30))
    ///     .open_for(Duration::from_secs(60));
    /// let app = App::in_memory()
    ///     .breaker("stripe", stripe)
    ///     .tasks(tasks![charge])
    ///     .start()
    ///     .await?;
    /// app.apply_async(charge.s(7)).await?.get().await.unwrap_err();
    /// assert_eq!(app.breakers()?[0].state, BreakerState::Open);
    /// # app.shutdown().await }
    /// ```
    ///
    /// `start()` fails with [`StartError::InvalidBreaker`] if a figure is out of its range, and with
    /// [`StartError::UnknownBreaker`] if a task names a breaker that is not set.
    pub fn breaker(mut self, name: impl Into<String>, breaker: Breaker) -> Self {
        self.limits.breakers.insert(name.into(), breaker);
        self
    }

    /// Lets a queue serve the values of one parameter in turn, so that a tenant with a million tasks
    /// does not hold up one with three. Of the waiting tasks those of the highest priority go first,
    /// and among these the values take turns. Tasks of the queue that lack the parameter are served
    /// as one value more.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(queue = "mail")]
    /// async fn send(tenant: String, to: String) -> String { format!("{tenant}: {to}") }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    ///
    /// let app = App::in_memory()
    ///     .queue("mail", 4)
    ///     .fair_by("mail", "tenant")
    ///     .tasks(tasks![send])
    ///     .start()
    ///     .await?;
    /// let sent = app.apply_async(send.s("acme".to_owned(), "ada".to_owned())).await?;
    /// assert_eq!(sent.get().await?, "acme: ada");
    /// # app.shutdown().await }
    /// ```
    pub fn fair_by(mut self, queue: impl Into<String>, parameter: impl Into<String>) -> Self {
        self.limits.fair.insert(queue.into(), parameter.into());
        self
    }

    /// Submits work again and again: a signature with all its arguments, whenever the schedule is
    /// due ([`cron`](crate::cron()), [`crontab`](crate::crontab()) or [`every`](crate::every())).
    ///
    /// Each tick is submitted exactly once, over restarts, kills and changes of the clock: the tick
    /// and its submission are one commit. Setting a name again replaces the entry.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{cron, every};
    /// use std::time::Duration;
    ///
    /// #[task]
    /// async fn report(kind: String) {}
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory()
    ///     .schedule("nightly", cron("0 3 * * *").tz("Europe/Berlin"), report.s("sales".into()))
    ///     .schedule("status", every(Duration::from_secs(60)), report.s("status".into()))
    ///     .tasks(tasks![report])
    ///     .start()
    ///     .await?;
    /// let entries = app.schedules().list().await?;
    /// assert_eq!(entries[0].name, "nightly");
    /// assert!(entries[0].next.is_some() && entries[0].last.is_none());
    /// # app.shutdown().await }
    /// ```
    ///
    /// At each start the entries that the code declares are compared by name with those in the
    /// store. A new entry begins then, and one that the code no longer has is dropped. Of an entry
    /// that the store has, the code's schedule, options and work take effect; its ticks go on from
    /// the last one, also those that were missed meanwhile, unless it is due at other times than
    /// before. Entries that are [added](crate::Schedules::add) at run time stay.
    ///
    /// The work is frozen when the app starts, and takes at most 2,048 bytes in the store; larger work is
    /// submitted by a task. It waits for nothing that is [pending](Self::max_pending).
    ///
    /// `start()` fails with [`StartError::InvalidSchedule`] if the schedule or its work is refused or
    /// two schedules have this name,
    /// and if the app is [eager](App::eager).
    pub fn schedule<S: Accepts<()>>(
        mut self,
        name: impl Into<String>,
        schedule: impl Into<Schedule>,
        signature: S,
    ) -> Self {
        let entry = (name.into(), schedule.into(), signature.into_canvas());
        self.schedules.push(entry);
        self
    }

    /// Sets how much a crash may undo. Default: [`Durability::Power`], nothing.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().durability(chordal::Durability::Process);
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long the results of a finished workflow are kept; a workflow with live handles is
    /// kept at least as long as they exist. Default: one day, as in Celery.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().retention(Duration::from_secs(3_600));
    /// ```
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Sets how long [`App::shutdown`] waits for running tasks, and how long a
    /// [revoked](crate::TaskContext::cancelled) task may clean up. Default: 25 s.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().grace(Duration::from_secs(5));
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how many members of one group are in memory at once. Default: 2,048; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().window(100);
    /// ```
    pub fn window(mut self, members: u64) -> Self {
        self.window = members;
        self
    }

    /// Sets how many unfinished workflows whose first task goes to the same queue may be in memory
    /// at once. Default: 10,000; at least 1.
    ///
    /// Workflows beyond that are as durable as all others, wait in the store, in state
    /// [`Pending`](crate::State::Pending), and take no memory. They are loaded as others end:
    /// within one queue the highest priority first, within one priority in the order of submission.
    /// So priorities apply among all that wait, and again among all that are in memory, but a
    /// workflow in memory is not sent back. A workflow that has begun stays in memory to its end,
    /// whatever it waits for; one whose first task has a [`countdown`](crate::Signature::countdown)
    /// or [`eta`](crate::Signature::eta) is not loaded before that time.
    ///
    /// A workflow that a running task waits for is loaded at once, over the limit if necessary: no
    /// task holds capacity or a slot for a workflow that in turn waits for the task.
    /// ([`AsyncResult::get`](crate::AsyncResult::get) defines which waits count.)
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().live_workflows(1_000);
    /// ```
    pub fn live_workflows(mut self, workflows: u64) -> Self {
        self.live = workflows;
        self
    }

    /// Sets how many async tasks of one queue run at once. Default: 1,024; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().concurrency(8);
    /// ```
    pub fn concurrency(mut self, tasks: u64) -> Self {
        self.async_slots = tasks;
        self
    }

    /// Sets how many blocking tasks of one queue run at once, each on its own thread. Default: the
    /// number of cores; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().blocking_concurrency(2);
    /// ```
    pub fn blocking_concurrency(mut self, tasks: u64) -> Self {
        self.blocking_slots = tasks;
        self
    }

    /// Gives one queue its own slots: `tasks` async and `tasks` blocking ones; at least 1. Its name
    /// has at most 255 bytes, as every queue's name has ([`StartError::NameTooLong`] at the start).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().queue("mail", 4);
    /// ```
    pub fn queue(mut self, name: impl Into<String>, tasks: u64) -> Self {
        self.queues.insert(name.into(), tasks);
        self
    }

    /// Sets how many threads async tasks share. Default: the number of cores; at least 1, and at
    /// most 32,767.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().worker_threads(2);
    /// ```
    pub fn worker_threads(mut self, threads: u64) -> Self {
        self.worker_threads = threads;
        self
    }

    /// Sets how many tasks may be [pending](App::pending) before submitting more has to wait
    /// ([`App::apply_async`]) or is refused ([`App::try_apply_async`]). Default: 10,000,000; at
    /// least 1.
    ///
    /// Every task, chain, group and chord of a canvas counts, including callbacks that may never
    /// run. A workflow counts in full until it and its callbacks have ended, and pending work stays
    /// counted over restarts. A submission that begins below the limit is admitted in full, however
    /// large it is, and members of a lazy group count as they are drawn. A waiting submission takes
    /// no space in the store, and waiting submissions are admitted in order. Dropping the future of
    /// a waiting submission only gives up its position.
    ///
    /// A canvas that a task submits ([`TaskContext::apply_async`](crate::TaskContext::apply_async),
    /// or [`App::apply_async`] in its body), calls, adds or is replaced by never waits, because
    /// others may wait for the task. A submitted canvas counts; the others are part of their
    /// workflow. Pending work takes no memory in any case: the limit protects the disk and the
    /// callers.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending(100_000);
    /// ```
    pub fn max_pending(mut self, tasks: u64) -> Self {
        self.pending_limit.tasks = tasks;
        self
    }

    /// Sets how many bytes pending work may take in the store, as
    /// [`max_pending`](Self::max_pending) does for tasks. Default: 10 GiB; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending_bytes(100 << 20);
    /// ```
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.pending_limit.bytes = bytes;
        self
    }

    /// Sets how many bytes the arguments of one task, and its result, may take. Default: 1 MiB; at
    /// least 1. From 256 KiB on there is a warning, once for each task: a payload is always in
    /// memory as a whole, so keep large data elsewhere and pass on its location.
    ///
    /// Sizes are counted as stored, in MessagePack: for a map or starmap all items, and the list of
    /// its values; for a fold the first value, and the accumulator whenever it is stored. Larger
    /// arguments are refused before anything is acknowledged, also when a task calls, adds or
    /// submits, and in lazily drawn members. A task with a larger result fails, with
    /// [`FailureKind::PayloadTooLarge`](crate::FailureKind::PayloadTooLarge) and no retry; so does
    /// one that asks for a retry with larger arguments, or for a replacement with such arguments.
    /// The list of a group's values is no task's result and may have any size. Work submitted under
    /// another limit continues.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{Error, SubmitError};
    ///
    /// # #[task] async fn length(text: String) -> usize { text.len() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![length]).max_payload(1_000).start().await?;
    /// let refused = app.apply_async(length.s("x".repeat(1_000))).await;
    /// let Err(Error::Submit(SubmitError::PayloadTooLarge { bytes, limit, .. })) = refused else {
    ///     panic!("it is too large");
    /// };
    /// assert_eq!((bytes, limit), (1_003, 1_000));
    /// # app.shutdown().await }
    /// ```
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets how often the process may crash while a task is running, before the task is
    /// [quarantined](App::quarantined). Default: 3, which is the minimum: the first crash shows
    /// which tasks were running, the second accuses a few of them, the third proves it of one. A
    /// crash that may have come from outside (`kill -9`, the OOM killer, and a segmentation fault,
    /// which looks the same afterwards) counts half. `u32::MAX` never quarantines a task.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().quarantine_after(5);
    /// ```
    pub fn quarantine_after(mut self, crashes: u32) -> Self {
        self.trials.crashes = crashes;
        self
    }

    /// Sets whether the app records in its store's directory that the process aborts, so that the
    /// next process knows that a task caused it. Default: `true`, on Unix.
    ///
    /// This needs a handler of the signal SIGABRT, which writes one byte and then does what the
    /// process would have done without it. A handler that the program installed earlier runs first,
    /// and alone decides how the process ends; one that is installed later replaces ours. Without
    /// the record an abort counts as a crash that may have come from
    /// [outside](Self::quarantine_after).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// // A program with a crash reporter of its own that wants no other handler.
    /// let builder = App::open("data").note_aborts(false);
    /// ```
    pub fn note_aborts(mut self, note: bool) -> Self {
        self.trials.note_aborts = note;
        self
    }

    /// Sets the policy for a task that has crashed the process too often. Default:
    /// [`QuarantinePolicy::Keep`], so that the cause can be found before the task runs again.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::QuarantinePolicy;
    ///
    /// // A group of 5,000 does not wait for a human: its bad member fails.
    /// let builder = App::in_memory().quarantine(QuarantinePolicy::Discard);
    /// ```
    pub fn quarantine(mut self, policy: QuarantinePolicy) -> Self {
        self.quarantine = policy;
        self
    }

    /// Sets a function that is called with each quarantined task: when the app that detects it
    /// starts, and at each start while the task is [kept](QuarantinePolicy::Keep). It runs on its
    /// own thread and may block.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().on_quarantine(|task| {
    ///     eprintln!("{} {} has ended the process {} times", task.name, task.id, task.crashes);
    /// });
    /// ```
    pub fn on_quarantine(
        mut self,
        hook: impl Fn(&QuarantinedTask) + Send + Sync + 'static,
    ) -> Self {
        self.on_quarantine = Some(QuarantineHook::new(hook));
        self
    }

    /// Starts the app without running a task: none begins before [`App::resume`]. Meanwhile work
    /// can be submitted, inspected, revoked and forgotten as usual. An [eager](App::eager) app has
    /// nothing to resume, and is never paused.
    ///
    /// For programs whose tasks need state that is only set up after [`start`](Self::start), which
    /// otherwise runs unfinished tasks at once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::sync::OnceLock;
    /// static APP: OnceLock<App> = OnceLock::new();
    ///
    /// #[task]
    /// async fn pending() -> u64 {
    ///     APP.get().expect("set before the first task").pending()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![pending]).paused().start().await?;
    /// let _ = APP.set(app.clone());
    /// app.resume().await?;
    /// assert_eq!(app.apply_async(pending.s()).await?.get().await?, 1);
    /// # app.shutdown().await }
    /// ```
    pub fn paused(mut self) -> Self {
        self.is_paused = true;
        self
    }

    /// Sets the clock; tests use one that they advance by hand.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let clock = chordal::Clock::manual(SystemTime::UNIX_EPOCH);
    /// let builder = App::in_memory().clock(clock.clone());
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long [`start`](Self::start) waits for another process that has the store open,
    /// before it fails with [`StoreError::Locked`](crate::StoreError::Locked), which names that
    /// process. Default: 5 seconds, because a killed process keeps its files locked until it has
    /// fully exited. If this process itself has the store open, `start` fails without waiting,
    /// unless the app that has it is stopping.
    ///
    /// The setting applies to the store of [`App::open`]; a store passed to [`App::with_store`] is
    /// already open ([`SledStore::open_within`](crate::persistence::SledStore::open_within)).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::open("data").lock_timeout(Duration::from_secs(30));
    /// ```
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Opens the store, resumes all unfinished work, and starts to run it.
    ///
    /// Unfinished tasks may run before this returns, so everything that they need must be set up
    /// before the call. [`paused`](Self::paused) makes them wait.
    ///
    /// # Errors
    ///
    /// [`StartError::InvalidSetting`] if a setting is out of its range, which its method gives;
    /// [`StartError::DuplicateTask`], [`StartError::InvalidTask`], [`StartError::NameTooLong`];
    /// [`StartError::MissingData`], [`StartError::DuplicateData`];
    /// [`StartError::InvalidLimit`], [`StartError::UnknownLimit`],
    /// [`StartError::InvalidBreaker`], [`StartError::UnknownBreaker`];
    /// [`StartError::InvalidSchedule`];
    /// [`Error::Store`] if the store is locked by another process, is damaged, was written by a
    /// newer version, or cannot be opened; [`StartError::Thread`] if the system does not provide
    /// the threads that the engine needs.
    pub async fn start(mut self) -> Result<App> {
        let registry = self.registry()?;
        if let Source::Eager = self.store {
            if let Some((name, ..)) = self.schedules.pop() {
                let reason = "an eager app submits nothing by itself".to_owned();
                return Err(StartError::InvalidSchedule { name, reason }.into());
            }
            return Ok(App(Arc::new(Running {
                backend: Arc::new(EagerStore::new(registry, self.clock)),
                grace: self.grace,
                engine: None,
                stops_when_dropped: true,
            })));
        }
        let grace = self.grace;
        let (node, seat) = self.settings(registry);
        let (ready, started) = oneshot::channel();
        let (ends, ended) = watch::channel(());
        thread::Builder::new()
            .name("chordal-engine".to_owned())
            .spawn(move || {
                lifecycle::run(node, seat, ready);
                drop(ends);
            })
            .map_err(|error| Error::Start(StartError::Thread(format!("its thread: {error}"))))?;
        let started = started.await.unwrap_or_else(|_| {
            Err(Error::Start(StartError::Thread(
                "its thread panicked".to_owned(),
            )))
        });
        let (node, backend) = started?;
        let reader = backend.view.reader().ok();
        let directory = reader.and_then(|reader| reader.store().directory().map(Path::to_owned));
        Ok(App(Arc::new(Running {
            backend,
            grace,
            engine: Some(EngineThread {
                directory,
                ended,
                is_stopping: AtomicBool::new(false),
                node,
            }),
            stops_when_dropped: true,
        })))
    }

    /// Checks the settings, and returns the registry of the tasks.
    pub(crate) fn registry(&mut self) -> Result<Registry> {
        self.check()?;
        let tasks = std::mem::take(&mut self.tasks);
        for queue in self.queues.keys() {
            refuse_long_name("queue", queue, "")?;
        }
        let data = std::mem::take(&mut self.data);
        let limits = std::mem::take(&mut self.limits);
        Registry::new(tasks, PayloadLimit::new(self.max_payload), data, limits)
    }

    /// Refuses a setting that is out of its range.
    fn check(&self) -> Result<(), StartError> {
        let counts = [
            ("window", self.window),
            ("live_workflows", self.live),
            ("concurrency", self.async_slots),
            ("blocking_concurrency", self.blocking_slots),
            ("max_pending", self.pending_limit.tasks),
            ("max_pending_bytes", self.pending_limit.bytes),
            ("max_payload", self.max_payload),
        ];
        for (setting, value) in counts {
            check(setting, value, value >= 1, "at least 1")?;
        }
        for (name, slots) in &self.queues {
            check(
                &format!("queue({name:?})"),
                *slots,
                *slots >= 1,
                "at least 1",
            )?;
        }
        let (threads, crashes) = (self.worker_threads, u64::from(self.trials.crashes));
        let is_countable = (1..=MAX_WORKERS).contains(&threads);
        check("worker_threads", threads, is_countable, "1 to 32767")?;
        check("quarantine_after", crashes, crashes >= 3, "at least 3")
    }

    /// Returns the settings of the node and those of its engine.
    pub(crate) fn settings(self, registry: Registry) -> (NodeSettings, Seat) {
        let slots = QueueSlots {
            default: Slots::new(self.async_slots, self.blocking_slots),
            own: self
                .queues
                .into_iter()
                .map(|(queue, tasks)| (queue, Slots::of_either_kind(tasks)))
                .collect(),
        };
        let node = NodeSettings {
            registry,
            slots,
            worker_threads: machine_count(self.worker_threads),
        };
        let seat = Seat {
            store: self.store,
            durability: self.durability,
            retention: self.retention,
            limits: Limits {
                window: self.window,
                live: machine_count(self.live),
                is_paused: self.is_paused,
                quarantine: self.quarantine,
                on_quarantine: self.on_quarantine,
            },
            trials: self.trials,
            pending_limit: self.pending_limit,
            clock: self.clock,
            grace: self.grace,
            lock_timeout: self.lock_timeout,
            schedules: self.schedules,
        };
        (node, seat)
    }
}

fn check(
    setting: &str,
    value: u64,
    is_valid: bool,
    allowed: &'static str,
) -> Result<(), StartError> {
    match is_valid {
        true => Ok(()),
        false => Err(StartError::InvalidSetting {
            setting: setting.to_owned(),
            value,
            allowed,
        }),
    }
}

/// Returns the count as this machine counts what is in memory; a larger one limits nothing.
fn machine_count(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
