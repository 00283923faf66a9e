//! The errors that a caller of the library can receive, grouped by the call that returns them.

use std::fmt;
use std::time::Duration;

use crate::canvas::freeze::{CanvasError, Reason, SizeExceeded};
use crate::canvas::id::Id;
use crate::canvas::outcome::TaskFailure;
use crate::persistence::StoreError;

/// The result of a call of chordal.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a call failed. Each variant but the last three belongs to one audience:
///
/// | variant | returned by | means |
/// |---|---|---|
/// | [`Failed`](Self::Failed)([`TaskFailure`]) | `get` | the task failed, or the canvas that it belongs to |
/// | [`Get`](Self::Get)([`GetError`]) | `get` | there is no value: not in time, not ever, or not of this type |
/// | [`Id`](Self::Id)([`IdError`]) | calls with an id | the id is not known, or names nothing that the call can be about |
/// | [`Submit`](Self::Submit)([`SubmitError`]) | `apply_async` and the like | the canvas is refused, and nothing of it is stored |
/// | [`Start`](Self::Start)([`StartError`]) | [`start`](crate::AppBuilder::start) | a setting or a task is refused, or a thread is missing |
/// | [`Control`](Self::Control)([`ControlError`]) | [`pause_queue`](crate::App::pause_queue) and the like | a queue or a task cannot be changed so |
/// | [`Context`](Self::Context)([`ContextError`]) | calls in a task | a task may not do this, or not here |
/// | [`Store`](Self::Store)([`StoreError`]) | every call | the store cannot be opened, read or written |
/// | [`Halted`](Self::Halted) | every call | an internal fault has stopped the engine |
/// | [`ShutDown`](Self::ShutDown) | every call | the app has been shut down or dropped |
/// | [`NoThread`](Self::NoThread) | calls that need a thread | the system refused one; the call may be repeated |
///
/// `{:?}` prints the text of `Display`, because a `main` that returns the error prints it so;
/// `{:#?}` prints the fields.
///
/// ```
/// use chordal::{Error, GetError};
/// # use chordal::prelude::*;
/// # use std::time::Duration;
///
/// # async fn f(sum: AsyncResult<i64>) {
/// match sum.get_timeout(Duration::from_secs(5)).await {
///     Ok(sum) => println!("{sum}"),
///     Err(Error::Failed(failure)) => println!("{} failed: {}", failure.name, failure.message),
///     Err(Error::Get(GetError::Timeout { .. })) => println!("it is still running"),
///     Err(other) => println!("{other}"),
/// }
/// # }
/// ```
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task, or the canvas it belongs to, failed.
    #[error(transparent)]
    Failed(Box<TaskFailure>),
    /// There is no value to be had.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The call cannot be made with this id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The canvas was refused; nothing of it stays in the store.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The app could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A queue or a task cannot be paused or changed so.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A task may not do this, or not here.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The store failed. [`StoreError::Full`] concerns this call alone: there is no space for new
    /// work, and admitted work continues as far as space allows. After any other error of a write
    /// the engine has halted: nothing more is acknowledged, and opening the store again recovers
    /// everything acknowledged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine stopped because of an internal fault; opening the store again recovers.
    #[error("the engine has halted: {0}")]
    Halted(String),
    /// The app has been shut down; unfinished work resumes when the store is opened again.
    #[error("the app has been shut down")]
    ShutDown,
    /// The system had no thread for this call (a limit on processes, or no memory). Nothing was
    /// done; other work continues, and the call may be repeated.
    #[error("no thread {purpose}: {reason}")]
    NoThread {
        /// The purpose of the thread.
        purpose: &'static str,
        /// The system's reason.
        reason: String,
    },
}

/// Why a queue or a task is not paused, resumed or changed: returned by
/// [`App::pause_queue`](crate::App::pause_queue) and its relatives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No task is registered under this name.
    #[error("no task is registered as `{name}`")]
    UnknownTask {
        /// The name.
        name: String,
    },
    /// With no slot nothing would ever run.
    #[error("{of} needs a concurrency of at least 1; to stop it, pause it")]
    NoConcurrency {
        /// The kind and the name: "queue `mail`", "task `send`".
        of: String,
    },
    /// The name of a queue is longer than 255 bytes.
    #[error("the name of a queue takes {bytes} bytes, and the limit is {limit}")]
    NameTooLong {
        /// The length of the name, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// An eager app runs each task at its call: it has no queues, and nothing waits.
    #[error("an eager app has no queues, and runs each task at its call")]
    Eager,
}

/// Why there is no value, although the task has not failed: returned by
/// [`AsyncResult::get`](crate::AsyncResult::get) and its relatives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The time given to [`get_timeout`](crate::AsyncResult::get_timeout) has passed; the work
    /// continues.
    #[error("no result of {id} within {waited:?}; the work goes on")]
    Timeout {
        /// The id of the task that was waited for.
        id: Id,
        /// How long the call waited.
        waited: Duration,
    },
    /// The task will never run: it is a callback whose task failed, or an errback whose task did
    /// not fail. (A task that expired or was revoked is [`Failed`](Error::Failed), with
    /// [`FailureKind::Revoked`](crate::FailureKind::Revoked).)
    #[error("task {id} will never run: what it waited for did not come")]
    NeverRuns {
        /// The id of the task.
        id: Id,
    },
    /// The value is not of the requested type.
    #[error("the result of {id} is not of the requested type: {what}")]
    Decode {
        /// The id of the task.
        id: Id,
        /// The found and the expected type.
        what: String,
    },
}

/// Why a call cannot be made with an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// No task with this id is known: it was never submitted to this store, or its retention has
    /// ended.
    #[error("no task with id {id} is known")]
    Unknown {
        /// The requested id.
        id: Id,
    },
    /// Only a whole workflow can be forgotten or submitted again, by the id of the submitted canvas.
    #[error("{id} is a part of the workflow {}, which is kept, forgotten and submitted again as a whole", id.root())]
    NotARoot {
        /// The id of the part.
        id: Id,
    },
    /// The task is not in [quarantine](crate::App::quarantined), nor, for a
    /// [discard](crate::App::discard), [parked](crate::App::parked).
    #[error("task {id} is neither in quarantine nor parked")]
    NotQuarantined {
        /// The id of the task.
        id: Id,
    },
    /// The canvas is running in an [eager](crate::App::eager) app, inside the future that submitted
    /// it: dropping that future ends it.
    #[error("{id} is running in an eager app, which cannot revoke it")]
    NotRevocable {
        /// The id of the canvas or part to be revoked.
        id: Id,
    },
    /// The text is not an id: it does not parse with `text.parse::<Id>()`.
    #[error("`{text}` is not an id: {reason}")]
    Invalid {
        /// The text; if it is long, its beginning.
        text: String,
        /// Why it is not an id.
        reason: String,
    },
}

/// Why a canvas was refused; nothing of it stays in the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The canvas is wrong.
    #[error("canvas refused{}: {reason}", at(path))]
    Canvas {
        /// The path from the submitted canvas to the faulty part, for example
        /// `chord.header[2].chain[1]`. A group that is followed by a step is a chord's header.
        /// Empty for the submitted canvas itself.
        path: String,
        /// What is wrong with that part.
        reason: String,
    },
    /// The arguments of a task exceed the [limit](crate::AppBuilder::max_payload).
    #[error(
        "canvas refused{}: the arguments of `{task}` take {bytes} bytes, and the limit is {limit}",
        at(path)
    )]
    PayloadTooLarge {
        /// The path to the task, as in [`Canvas`](Self::Canvas).
        path: String,
        /// The task's name.
        task: String,
        /// The stored size of its arguments in bytes; for a map, of all its items.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The name of a queue is longer than 255 bytes, and such names become keys of the store.
    #[error(
        "the name of a queue{} takes {bytes} bytes, and the limit is {limit}",
        at(path)
    )]
    QueueNameTooLong {
        /// The path to the canvas with that option, as in [`Canvas`](Self::Canvas).
        path: String,
        /// The size of the name in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store has a workflow with the [chosen id](crate::Signature::task_id), or one is being
    /// submitted or deleted.
    #[error("the task id {id} is used already")]
    DuplicateId {
        /// The id.
        id: Id,
    },
    /// A schedule is invalid: the reason names the field and its allowed values.
    #[error("the schedule `{name}`: {reason}")]
    InvalidSchedule {
        /// The name of the entry.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no entry of this name.
    #[error("there is no schedule `{name}`")]
    UnknownSchedule {
        /// The name.
        name: String,
    },
    /// The limit on pending work is reached, and the caller did not want to wait
    /// ([`App::try_apply_async`](crate::App::try_apply_async)).
    #[error("the limit on pending work is reached: {tasks} tasks of {bytes} bytes are pending")]
    Busy {
        /// The number of pending tasks, chains, groups and chords.
        tasks: u64,
        /// The number of bytes that these take in the store.
        bytes: u64,
    },
}

/// Why an app could not [start](crate::AppBuilder::start), apart from its store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of its range.
    #[error("the setting `{setting}` is {value}, and must be {allowed}")]
    InvalidSetting {
        /// The method of [`AppBuilder`](crate::AppBuilder) that set it; of a queue with its name,
        /// `queue("mail")`.
        setting: String,
        /// The value.
        value: u64,
        /// The range, in words.
        allowed: &'static str,
    },
    /// Two tasks are registered under one name.
    #[error(
        "two tasks are registered as `{name}`: `{first}` and `{second}`; give one of them another name, `#[task(name = \"…\")]`"
    )]
    DuplicateTask {
        /// The name.
        name: String,
        /// The path of the task that is listed first.
        first: &'static str,
        /// The path of the other task.
        second: &'static str,
    },
    /// A task cannot be registered: its soft time limit is above its time limit, or its priority
    /// above 9.
    #[error("task `{name}` cannot be registered: {reason}")]
    InvalidTask {
        /// The name of the task.
        name: String,
        /// Why it cannot be registered.
        reason: String,
    },
    /// The app has no [application data](crate::AppBuilder::data) of a type that a registered task
    /// takes.
    #[error(
        "task `{task}` takes application data of type `{data}`, which the app does not have: give it with `.data(…)`"
    )]
    MissingData {
        /// The name of the task.
        task: &'static str,
        /// The path of the type.
        data: &'static str,
    },
    /// A circuit breaker has figures out of their range.
    #[error("the breaker `{name}`: {reason}")]
    InvalidBreaker {
        /// The name of the breaker.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A task is under a circuit breaker that the app does not have.
    #[error(
        "task `{task}` names the breaker `{breaker}`, which the app does not have: set it with `.breaker(\"{breaker}\", …)`"
    )]
    UnknownBreaker {
        /// The name of the task.
        task: &'static str,
        /// The name of the breaker.
        breaker: &'static str,
    },
    /// A limit allows nothing, or its period or burst is out of its range.
    #[error("the limit `{name}`: {reason}")]
    InvalidLimit {
        /// The name of the limit.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A schedule is invalid, or its work is refused.
    #[error("the schedule `{name}`: {reason}")]
    InvalidSchedule {
        /// The name of the entry.
        name: String,
        /// What is wrong; of a field, with its allowed values.
        reason: String,
    },
    /// A task shares a limit that the app does not have.
    #[error(
        "task `{task}` shares the limit `{limit}`, which the app does not have: set it with `.limit({limit:?}, …)` or `.limit_concurrency({limit:?}, …)`"
    )]
    UnknownLimit {
        /// The name of the task.
        task: &'static str,
        /// The name of the limit.
        limit: &'static str,
    },
    /// Two values of one type were given to the app as
    /// [application data](crate::AppBuilder::data).
    #[error(
        "two values of type `{data}` are given as application data: wrap one in a type of its own"
    )]
    DuplicateData {
        /// The path of the type.
        data: &'static str,
    },
    /// The name of a queue or of a task is longer than 255 bytes, and such names become keys of the
    /// store.
    #[error(
        "the name of a {of}{} takes {bytes} bytes, and the limit is {limit}",
        at(task)
    )]
    NameTooLong {
        /// The kind of name: `queue` or `task`.
        of: &'static str,
        /// The registered task with that name or queue; empty for a queue of the app.
        task: String,
        /// The size of the name in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A thread or a runtime that the engine needs could not be started.
    #[error("the engine could not start: {0}")]
    Thread(String),
}

/// Why a task, or a function that only a task may call, was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A function that only a running task of an app can use was called elsewhere: in a task
    /// function called directly, or after the attempt had ended.
    #[error("only a running attempt of a task can do this")]
    NotInTask,
    /// A blocking task called a canvas. It could give its slot back while it waits, but not its
    /// thread, and the threads would run out. Use `replace` or an async task instead.
    #[error("a blocking task cannot call: it would hold its thread while it waits")]
    CallInBlockingTask,
    /// The function of a fold called a canvas, or added to a chord. It runs many times as one task,
    /// which could not tell the subtasks of one run from those of another.
    #[error("the function of a fold cannot call a canvas or add to a chord")]
    WorkInFold,
    /// The task is no member of a group or of a chord's header, so it cannot add to one.
    #[error("task {id} is a member of no group and of no chord's header")]
    NotInChord {
        /// The id of the task.
        id: Id,
    },
    /// A task reported a [state](crate::TaskContext::update_state) that cannot be one, or a value
    /// that cannot be stored with it.
    #[error("the state `{state}` cannot be reported: {reason}")]
    State {
        /// The name of the state.
        state: String,
        /// What is wrong with it or with its value.
        reason: String,
    },
    /// The app has no [application data](crate::AppBuilder::data) of the type that
    /// [`TaskContext::data`](crate::TaskContext::data) was called for, or there is no app.
    #[error("the app has no application data of type `{data}`: give it with `.data(…)`")]
    MissingData {
        /// The path of the type.
        data: &'static str,
    },
    /// A running task waits for a result that cannot come while it waits: its own or that of a
    /// workflow it belongs to, or another task's while it holds a thread that this task may need.
    #[error("a running task cannot wait for {id}: {why}")]
    WaitInTask {
        /// The id that it tried to wait for.
        id: Id,
        /// Why the wait would not end, and what to do instead.
        why: &'static str,
    },
}

impl Error {
    pub(crate) fn no_thread(purpose: &'static str, error: &std::io::Error) -> Self {
        let reason = error.to_string();
        Self::NoThread { purpose, reason }
    }
}

impl From<CanvasError> for Error {
    fn from(CanvasError { path, reason }: CanvasError) -> Self {
        Self::Submit(match reason {
            Reason::Wrong(reason) => SubmitError::Canvas { path, reason },
            Reason::TooLarge {
                task,
                excess: SizeExceeded { bytes, limit },
            } => SubmitError::PayloadTooLarge {
                path,
                task,
                bytes,
                limit,
            },
            Reason::QueueName(SizeExceeded { bytes, limit }) => {
                SubmitError::QueueNameTooLong { path, bytes, limit }
            }
        })
    }
}

impl From<TaskFailure> for Error {
    fn from(failure: TaskFailure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let (name, fields): (_, &dyn fmt::Debug) = match self {
            Self::Failed(failure) => ("Failed", failure),
            Self::Get(error) => ("Get", error),
            Self::Id(error) => ("Id", error),
            Self::Submit(error) => ("Submit", error),
            Self::Start(error) => ("Start", error),
            Self::Control(error) => ("Control", error),
            Self::Context(error) => ("Context", error),
            Self::Store(error) => ("Store", error),
            Self::Halted(reason) => ("Halted", reason),
            Self::ShutDown => return f.write_str("ShutDown"),
            Self::NoThread { purpose, reason } => {
                let mut fields = f.debug_struct("NoThread");
                return fields
                    .field("purpose", purpose)
                    .field("reason", reason)
                    .finish();
            }
        };
        f.debug_tuple(name).field(fields).finish()
    }
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" at {path}")
    }
}
