//! The engine of chordal on one thread, where a seed decides all that happens.
//!
//! It is the engine itself that runs: its actors, journal, recovery and runner, in one actix system on
//! a runtime whose time stands until all are idle. Then the driver ([`run()`]) lets one thing happen:
//! the store writes what it has been given, a task or a caller goes on, or the clock is turned. A
//! life of the engine ends by a crash, which may take what was not synced with it, by a store that
//! fails at some call, for good or only then, or by a shutdown; then the store is opened again. Words are
//! heard twice and late, and actors of each kind die, with those that hang on them.
//!
//! What it runs are the random canvases of `tests/it/property`, with tasks that fail, retry, panic,
//! wait, run into their limits, block, start at a time, expire, and start more, in queues with few slots,
//! behind a backlog. What must come of them the short reference beside the canvases says. Beyond that it
//! must hold, whatever happens, that
//!
//! - what was acknowledged is there after each opening, and what was told to have ended has;
//! - all ends, and as the reference says, for every caller and after every restart alike;
//! - each task of a workflow runs under one id, and each attempt of it once: one body per chord,
//!   one errback per failure, none of what was not submitted;
//! - nothing that the store shows as ended starts again, and attempts are bounded;
//! - no queue runs more tasks than it has slots, none begins before its time, and of those that wait in
//!   one line the higher priority goes first, and who came first;
//! - a store that has failed is asked for nothing more, and a clean stop leaves nothing unsynced;
//! - what a caller was told who [revokes](chordal::AsyncResult::revoke), a flow or a part of it, at any time,
//!   agrees with what has run, with the record, and with what it is told in later lives; nothing of it
//!   starts after that (in two of seven seeds);
//! - a countdown lasts as long as it says, and a task with an eta begins when the wall clock shows it, though the
//!   clock is set by seconds, hours and years, forward and back (in two of five seeds);
//! - a lookup by id finds a flow whole, its outcome and its end, or not at all, though it is swept at that moment
//!   (in one of four seeds);
//! - after [`forget`](chordal::AsyncResult::forget), before the end of a flow or after it, the store keeps the
//!   flow for its handles alone once it has ended, and its idempotency key is free;
//! - after the retention the store holds nothing.
//!
//! With [`Durability::Buffered`](chordal::Durability) a crash may take what was acknowledged and told, and
//! what is begun again has the old numbers. The rest holds: what is there is whole, and ends as it should.
//!
//! # What it finds
//!
//! Faults that were put into the engine for a while, and the first seed that showed each:
//!
//! | fault | seed |
//! |---|---|
//! | functions are called and callers told before the commit | 0 |
//! | the store answers without a sync | 4 |
//! | members that have arrived are counted, not remembered | 2 |
//! | a barrier's verdict is forgotten by a restart | 5 |
//! | any attempt may end the task that runs | 184 |
//! | a late word ends a task that waits for its retry | 56 |
//! | retries are not counted | 4 |
//! | a slot is granted twice | 4 |
//! | the last workflow that was live is not gone on with | 2 |
//! | an idempotency key is not recorded | 96 |
//! | what was forgotten is not taken away | 70 |
//! | the engine wakes itself for what may not come in | 101 |
//! | what hangs on a lost actor goes on | 26 |
//! | the engine goes on after a failed commit | 2 |
//! | the lowest priority goes first; or, within one, the last | 17 |
//! | a time is not waited for | 0 |
//! | what has expired runs | 13 |
//! | errbacks of what has expired run | 23 |
//! | a clean stop does not flush what is buffered | 27 |
//! | a revocation is not recorded | 832 |
//! | a supervisor that is revoked says its own last word | 293 |
//!
//! What is caught twice it cannot see once: that a barrier hears a member twice, or decides twice, since
//! whoever it tells listens once; that those who hang on a lost actor are told at once, since they look
//! before they decide anything.
//!
//! # What it leaves out
//!
//! Only of those who surely do is it said that they expire: a deadline that falls among retries or in a
//! queue depends on when all else happens. The order of a line is looked at in the first two lives, before
//! suspects are tried, and while no actor has died. Of a flow of which a part is revoked the reference says
//! nothing: what runs of it, beside that part, is not compared. What is to come, limits of rate, belongs in
//! `plan.rs` as an option of a role.

mod clock_steps;
mod dice;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/disk.rs"]
mod disk;
mod failing;
mod life;
mod lookups;
#[path = "../../tests/it/property/model.rs"]
mod model;
mod plan;
mod revoke;
mod run;
mod tasks;
mod world;

pub use run::{Options, Run, run};
use tasks::relay;
