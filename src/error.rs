//! What a caller of the library can be told.

use std::fmt;
use std::time::Duration;

use crate::canvas::freeze::{CanvasError, Reason, SizeExceeded};
use crate::canvas::id::Id;
use crate::canvas::outcome::TaskFailure;
use crate::persistence::StoreError;

/// The result of what a caller asks of chordal.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not give what was asked.
///
/// `Debug` shows the same text as `Display`: it is what a `main` that returns it prints.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task, or the canvas it belongs to, failed.
    #[error(transparent)]
    Failed(Box<TaskFailure>),
    /// The task will never run: a callback whose task failed, an errback whose task did not.
    /// (One that expired or was revoked is [`Failed`](Self::Failed), with
    /// [`FailureKind::Revoked`](crate::FailureKind::Revoked).)
    #[error("task {id} will never run: what it waited for did not come")]
    Revoked {
        /// The task.
        id: Id,
    },
    /// The time given to `get_timeout` has passed; the work goes on.
    #[error("no result of {id} within {waited:?}; the work goes on")]
    Timeout {
        /// The task waited for.
        id: Id,
        /// How long the call has waited.
        waited: Duration,
    },
    /// No task with this id is known: it was never submitted to this store, or its retention has
    /// ended.
    #[error("no task with id {id} is known")]
    UnknownId {
        /// The id asked for.
        id: Id,
    },
    /// Only a whole workflow can be forgotten, by the id of what was submitted.
    #[error("{id} is a part of a workflow, which is kept or forgotten as a whole: {}", id.root())]
    NotARoot {
        /// The part.
        id: Id,
    },
    /// The value is there, but it is not of the type asked for.
    #[error("the result of {id} is not of the type asked for: {what}")]
    Decode {
        /// The task.
        id: Id,
        /// What was found and what was expected.
        what: String,
    },
    /// The canvas was refused; nothing of it stays in the store.
    #[error("canvas refused{}: {reason}", at(path))]
    Canvas {
        /// The way to the place from the outside in, for example `chord.header[2].chain[1]`: a
        /// group that is followed by anything is a chord's header. Empty for the canvas itself.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// A task of the canvas would be called with more than is
    /// [taken](crate::AppBuilder::max_payload); nothing of the canvas stays in the store.
    #[error(
        "canvas refused{}: the arguments of `{task}` take {bytes} bytes, and the limit is {limit}",
        at(path)
    )]
    PayloadTooLarge {
        /// The way to the task, as in [`Canvas`](Self::Canvas).
        path: String,
        /// The task's name.
        task: String,
        /// How many bytes its arguments take as they are stored; of a map, all its items.
        bytes: u64,
        /// How many are taken at most.
        limit: u64,
    },
    /// The name of a queue or of a task is longer than 255 bytes: such names become keys of the
    /// store. A canvas with one is refused; an app that registers one does not start.
    #[error(
        "the name of a {of}{} takes {bytes} bytes, and the limit is {limit}",
        at(path)
    )]
    NameTooLong {
        /// What has the name: `queue` or `task`.
        of: &'static str,
        /// Where it is: the way to the canvas, as in [`Canvas`](Self::Canvas), or the task that is
        /// registered with it.
        path: String,
        /// How many bytes the name has.
        bytes: u64,
        /// How many are taken at most.
        limit: u64,
    },
    /// What only a running task of an app can do was asked for elsewhere: in a function called by
    /// hand, or after the attempt had ended.
    #[error("only a running attempt of a task can do this")]
    NotInTask,
    /// A blocking task called a canvas: it could give its slot back while it waits, but not its
    /// thread, and threads are what runs out. `replace`, or an async task, does it.
    #[error("a blocking task cannot call: it would hold its thread while it waits")]
    CallInBlockingTask,
    /// The function of a fold called a canvas, or added to a chord: it runs many times as one task,
    /// which could not tell its own work of one run from that of another.
    #[error("the function of a fold cannot call a canvas or add to a chord")]
    WorkInFold,
    /// The task is a member of no group and of no chord's header, so it cannot add to one.
    #[error("task {id} is a member of no group and of no chord's header")]
    NotInChord {
        /// The task.
        id: Id,
    },
    /// So much is pending that there is no room for more, and the caller did not want to wait
    /// ([`App::try_apply_async`](crate::App::try_apply_async)).
    #[error("no room for more: {tasks} tasks of {bytes} bytes are pending")]
    Busy {
        /// How many tasks are pending, chains, groups and chords among them.
        tasks: u64,
        /// How many bytes these take in the store.
        bytes: u64,
    },
    /// The task is not in [quarantine](crate::App::quarantined), nor, where it was to be
    /// [discarded](crate::App::discard), [parked](crate::App::parked).
    #[error("task {id} is neither in quarantine nor parked")]
    NotQuarantined {
        /// The task.
        id: Id,
    },
    /// It is under way in an [eager](crate::App::eager) app, where it runs in whoever has submitted
    /// it: dropping that future is what ends it.
    #[error("{id} is under way in an eager app, which cannot revoke it")]
    NotRevocable {
        /// What was to be revoked.
        id: Id,
    },
    /// Two tasks are registered under one name.
    #[error(
        "two tasks are registered as `{name}`: `{first}` and `{second}`; give one of them another name, `#[task(name = \"…\")]`"
    )]
    DuplicateTask {
        /// The name.
        name: String,
        /// The path of the one that is listed first.
        first: &'static str,
        /// The path of the other one.
        second: &'static str,
    },
    /// A task cannot be registered: its soft time limit is above its time limit.
    #[error("task `{name}` cannot be registered: {reason}")]
    InvalidTask {
        /// The name of the task.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed. [`StoreError::Full`] is about this call alone: there is no room for new work,
    /// and what was taken in goes on, as far as there is room for it. After any other error of a write the
    /// engine has halted: nothing more is acknowledged, and opening the store again recovers what was.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine stopped because of a fault of its own; opening the store again recovers.
    #[error("the engine has halted: {0}")]
    Halted(String),
    /// The app has been shut down; what is unfinished goes on when the store is opened again.
    #[error("the app has been shut down")]
    ShutDown,
    /// The text is not an id: `text.parse::<Id>()`.
    #[error("`{text}` is not an id: {reason}")]
    InvalidId {
        /// The text; of a long one, the beginning.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread or a runtime that the engine needs could not be started, or a setting is out of its
    /// range.
    #[error("the engine could not start: {0}")]
    Start(String),
    /// The system had no thread for this call (a limit on processes, or no memory); nothing has been
    /// done. All else goes on, and the call may be made again.
    #[error("no thread {purpose}: {reason}")]
    NoThread {
        /// What it was needed for.
        purpose: &'static str,
        /// The system's reason.
        reason: String,
    },
    /// A running task waits for what cannot come while it waits: for itself or for what it is a part
    /// of, or for another task while it holds a thread that this one may need.
    #[error("a running task cannot wait for {id}: {why}")]
    WaitInTask {
        /// What it was to wait for.
        id: Id,
        /// Why that would not end, and what to do instead.
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
        match reason {
            Reason::Wrong(reason) => Self::Canvas { path, reason },
            Reason::TooLarge {
                task,
                excess: SizeExceeded { bytes, limit },
            } => Self::PayloadTooLarge {
                path,
                task,
                bytes,
                limit,
            },
            Reason::QueueName(SizeExceeded { bytes, limit }) => Self::NameTooLong {
                of: "queue",
                path,
                bytes,
                limit,
            },
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" at {path}")
    }
}
