//! Typed chains, groups and chords on actors, persisted in an embedded store: what Celery's canvas
//! gives a cluster, for one binary. No broker, no result backend. Workflows survive `kill -9` and
//! power loss, and a chord's body runs exactly once when the last child has reported.
//!
//! ```
//! use chordal::prelude::*;
//!
//! #[task]
//! async fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[task]
//! async fn xsum(xs: Vec<i64>) -> i64 {
//!     xs.iter().sum()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let data = dir.path().join("data");
//! let app = App::open(data).tasks(tasks![add, xsum]).start().await?;
//! let header = group((0..10).map(|i| add.s(i, i)));
//! let sum = app.apply_async(chord(header, xsum.partial())).await?;
//! assert_eq!(sum.await?, 90);
//! app.shutdown().await
//! # }
//! ```
//!
//! | module | is about |
//! |---|---|
//! | `app` | [`App`]: open, register, submit, shut down |
//! | `task` | what a user writes: [`macro@task`], [`Task`], [`TaskContext`], [`Data`], [`TaskError`] |
//! | `result` | what a caller keeps: [`AsyncResult`] |
//! | `canvas` | what a user composes: [`Signature`], [`chain()`], [`group()`], [`chord()`]; pure |
//! | `text` | Celery's JSON of a canvas, and ids in text |
//! | `persistence` | [`Store`](persistence::Store), sled, redb (with the feature `redb`), memory, and the suite that every store must pass |
//! | `messages`, `actors` | the engine |
//! | `eager` | what [`App::eager`] has in its place |
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `sled` | yes | `persistence::SledStore`; `App::open`, which uses it |
//! | `redb` | no | `persistence::RedbStore`, for [`App::with_store`] |
//! | either | | `App::verify`, `App::salvage` and `App::import`, for stores of the engines that are there |
//!
//! Without either the store is memory ([`App::in_memory`]) or one of your own
//! ([`Store`](persistence::Store)). Features that begin with two underscores are for this
//! repository's tests and tools, and may change at any time.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))] // see clippy.toml
#![cfg_attr(not(feature = "sled"), allow(dead_code))] // helpers that only the sled store calls

// So that `#[task]`, which names the crate by its name, works within it.
extern crate self as chordal;

mod actors;
mod app;
mod backend;
mod canvas;
#[expect(
    clippy::disallowed_methods,
    reason = "the clock is where time and chance come in"
)]
mod clock;
mod eager;
mod error;
mod messages;
pub mod persistence;
pub mod prelude;
mod result;
mod split_mix;
mod task;
mod testing;
mod text;

pub use app::{App, AppBuilder, Schedules};
pub use canvas::admission::control::{Control, ControlTarget};
pub use canvas::breaker::{Breaker, BreakerState, BreakerStatus, OnOpen};
pub use canvas::id::Id;
pub use canvas::outcome::{FailureKind, TaskFailure};
pub use canvas::parameter::Parameter;
pub use canvas::parked::ParkedTask;
pub use canvas::quarantine::policy::{QuarantinePolicy, QuarantinedTask};
pub use canvas::rate_limit::{InvalidRateLimit, RateLimit};
pub use canvas::revoke_outcome::RevokeOutcome;
pub use canvas::schedule::{
    Crontab, InvalidSchedule, Missed, Overlap, Schedule, ScheduleEntry, cron, crontab, every,
};
pub use canvas::state::State;
pub use canvas::task_update::TaskProgress;
pub use canvas::why::Why;
pub use canvas::{
    Accepts, Canvas, Header, Immutable, Members, Signature, chain, chord, group, group_of,
};
pub use chordal_macros::task;
pub use clock::Clock;
pub use error::{
    ContextError, ControlError, Error, GetError, IdError, Result, StartError, SubmitError,
};
pub use persistence::store::{Durability, Holder, StoreError};
pub use result::{
    AsyncResult, Change, Changes, Completion, Completions, GroupResult, Progress, TaskInfo,
};
#[doc(hidden)]
pub use task::expansion;
pub use task::{
    DEFAULT_QUEUE, Data, DataType, IntoTaskError, Replaced, Results, Retry, Task, TaskArg,
    TaskArgs, TaskContext, TaskEntry, TaskError, TaskOptions, TaskOutput, TaskResult,
};
#[cfg(feature = "__failpoints")]
#[doc(hidden)]
pub use testing::failpoint::reached;
#[cfg(feature = "__fuzzing")]
#[doc(hidden)]
pub use testing::fuzzing;
#[cfg(feature = "__simulation")]
#[doc(hidden)]
pub mod simulation;

/// The examples in the README compile, and run where they can.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those for people who know Celery.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-celery.md")]
struct FromCelery;

/// And those of the guide and of the page about stores.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../docs/guide/lifecycle.md")]
    struct Lifecycle;
    #[doc = include_str!("../docs/guide/errors.md")]
    struct Errors;
    #[doc = include_str!("../docs/guide/retries.md")]
    struct Retries;
    #[doc = include_str!("../docs/guide/workflows.md")]
    struct Workflows;
    #[doc = include_str!("../docs/guide/limits.md")]
    struct Limits;
    #[doc = include_str!("../docs/guide/schedules.md")]
    struct Schedules;
    #[doc = include_str!("../docs/guide/operations.md")]
    struct Operations;
    #[doc = include_str!("../docs/guide/testing.md")]
    struct Testing;
    #[doc = include_str!("../docs/stores.md")]
    struct Stores;
}
