//! The engine of chordal on one thread, where a seed decides all that happens.
//!
//! It is the engine itself that runs: its actors, journal, recovery and runner, in one actix system on
//! a runtime whose time stands until all are idle. Then the driver ([`run()`]) lets one thing happen:
//! the store writes what it has been given, a task or a caller goes on, or the clock is turned. A
//! life of the engine ends by a crash, which may take what was not synced with it, by a store that
//! fails at some call, or by a shutdown; then the store is opened again. Words are heard twice and
//! late, and actors of tasks die.
//!
//! What it runs are the random canvases of `tests/it/property`, with tasks that fail, retry, panic,
//! wait, run into their limits, block, and start more, in queues with few slots, behind a backlog. What
//! must come of them the short reference beside the canvases says. Beyond that it must hold, whatever
//! happens, that
//!
//! - what was acknowledged is there after each opening, and what was told to have ended has;
//! - all ends, and as the reference says, for every caller and after every restart alike;
//! - each task of a workflow runs under one id, and each attempt of it once: one body per chord,
//!   one errback per failure, none of what was not submitted;
//! - nothing that the store shows as ended starts again, and attempts are bounded;
//! - no queue runs more tasks than it has slots;
//! - what a caller was told who [revokes](chordal::AsyncResult::revoke), a flow or a part of it, at any time,
//!   agrees with what has run, with the record, and with what it is told in later lives; nothing of it
//!   starts after that (in two of seven seeds);
//! - after the retention, or after [`forget`](chordal::AsyncResult::forget), the store holds nothing.
//!
//! # What it finds
//!
//! Faults that were put into the engine for a while, and the first seed that showed each:
//!
//! | fault | seed |
//! |---|---|
//! | functions are called and callers told before the commit | 0 |
//! | the store answers without a sync | 65 |
//! | members that have arrived are counted, not remembered | 4 |
//! | a barrier's verdict is forgotten by a restart | 16 |
//! | any attempt may end the task that runs | 234 |
//! | a late word ends a task that waits for its retry | 2 |
//! | retries are not counted | 3 |
//! | a slot is granted twice | 11 |
//! | the last workflow that was live is not gone on with | 3 |
//! | an idempotency key is not recorded | 127 |
//! | what was forgotten is not taken away | 45 |
//! | the engine wakes itself for what may not come in | 123 |
//! | a revocation is not recorded | 832 |
//! | a supervisor that is revoked says its own last word | 293 |
//!
//! What is caught twice it cannot see once: that a barrier hears a member twice, or decides twice, since
//! whoever it tells listens once; that the engine goes on after a failed commit, since the store
//! refuses all that follows, and nobody is told but by a store that has written.
//!
//! # What it leaves out
//!
//! Supervisors do not die: what their children do then happens twice (DESIGN.md, "what is left
//! undone on purpose"). What expires is not in the reference. `Durability::Buffered` is not tried, since
//! it loses what was acknowledged. The order in which priorities start is left to the tests of the
//! queue. Of a flow of which a part is revoked the reference says nothing: what runs of it, beside
//! that part, is not compared. What is to come, limits of rate, belongs in `plan.rs` as an option of a role.

mod dice;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/disk.rs"]
mod disk;
mod failing;
mod life;
#[path = "../../tests/it/property/model.rs"]
mod model;
mod plan;
mod revoke;
mod run;
mod tasks;
mod world;

pub use run::{Options, Run, run};
use tasks::relay;
