//! The engine of chordal on one thread, where a seed decides every event.
//!
//! The engine itself runs: its actors, journal, recovery and executor, in one actix system on a
//! runtime whose time stands still until all tasks are idle. Then the driver ([`run()`]) lets one
//! event happen: the store writes its queued batches, a task or a caller resumes, or the clock
//! advances. A life of the engine ends by a crash, which may lose unsynced writes, by a store that
//! fails at some call, for good or only once, or by a shutdown; then the store is opened again.
//! Events arrive twice and late, and actors of each kind die, with those below them.
//!
//! The workload is the random canvases of `tests/it/property`, with tasks that fail, retry, panic,
//! wait, exceed their limits, block, start at a time, expire, and start subtasks, in queues with
//! few slots, behind a backlog. The short reference model beside the canvases gives the expected
//! results. Beyond that, these properties must hold in every run:
//!
//! - an acknowledged workflow is present after each opening, and one whose end was reported has
//!   ended;
//! - every workflow ends, and as the reference says, for every caller and after every restart;
//! - each task of a workflow runs under one id, and each attempt of it once: one body per chord,
//!   one errback per failure, and no task that was not submitted;
//! - no task that the store shows as ended starts again, and attempts are bounded;
//! - no queue runs more tasks than it has slots, a paused queue starts nothing, though the process
//!   ends meanwhile (an operator pauses queues in every seventh seed), no task starts before its time, and of the tasks
//!   that wait in one queue the one with the highest priority starts first, and among equals the
//!   oldest;
//! - a store that has failed is not called again, and a clean stop leaves no unsynced write;
//! - the answer to a caller that [revokes](chordal::AsyncResult::revoke) a flow or a part of it, at
//!   any time, agrees with the bodies that ran, with the record, and with the answers in later
//!   lives; no task of it starts afterwards (in two of seven seeds);
//! - a countdown lasts as long as it says, and a task with an eta starts when the wall clock shows
//!   it, though the clock is set by seconds, hours and years, forward and back (in two of five
//!   seeds);
//! - a lookup by id finds a flow complete, with its outcome and its end, or not at all, though it
//!   is swept at that moment (in one of four seeds);
//! - after [`forget`](chordal::AsyncResult::forget), before the end of a flow or after it, the
//!   store keeps the flow for its handles alone once it has ended, and its idempotency key is free;
//! - a group that ends with its first values has as many as it waits for, the same in every later life,
//!   and starts no member after its end (in one of five seeds);
//! - what a task reports of itself goes on record at most once a second, and never in a batch of its
//!   own, and is deleted with the task (in one of four seeds);
//! - after the retention the store is empty.
//!
//! With [`Durability::Buffered`](chordal::Durability) a crash may lose acknowledged submissions and
//! reported ends, and workflows that start again reuse the old numbers. The other properties hold:
//! what the store shows is complete, and ends as it should.
//!
//! # What it finds
//!
//! Faults that were put into the engine temporarily, and the first seed that detected each:
//!
//! | fault | seed |
//! |---|---|
//! | functions are called and callers are answered before the commit | 0 |
//! | the store answers without a sync | 4 |
//! | members that have arrived are counted, not remembered | 2 |
//! | a barrier's verdict is forgotten by a restart | 5 |
//! | any attempt may end the task that runs | 184 |
//! | a late message ends a task that waits for its retry | 56 |
//! | retries are not counted | 4 |
//! | a slot is granted twice | 4 |
//! | the last workflow that was live is not resumed | 2 |
//! | an idempotency key is not recorded | 96 |
//! | a forgotten workflow is not deleted | 70 |
//! | the engine wakes itself for a workflow that it cannot admit | 101 |
//! | tasks below a lost actor continue | 26 |
//! | the engine continues after a failed commit | 2 |
//! | the lowest priority goes first; or, within one, the last | 17 |
//! | a task does not wait for its time | 0 |
//! | an expired task runs | 13 |
//! | errbacks of an expired task run | 23 |
//! | a clean stop does not flush buffered writes | 27 |
//! | a revocation is not recorded | 832 |
//! | a revoked supervisor sends its own final report | 293 |
//!
//! Faults that the engine catches twice are not detectable by removing one of the two: a barrier
//! that receives a member twice or decides twice, because its owner accepts one verdict; and the
//! notification of tasks below a lost actor, because they check before they decide anything.
//!
//! # What it leaves out
//!
//! Expiry is asserted only for tasks that certainly expire: a deadline that falls among retries or
//! in a queue depends on the timing of everything else. The order within a queue is checked in the
//! first two lives, before suspects are tried, and while no actor has died. For a flow of which a
//! part is revoked the reference gives no result: its other tasks are not compared. A future
//! feature, rate limits, belongs in `plan.rs` as an option of a role.

mod clock_steps;
mod controls;
mod dice;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/disk.rs"]
mod disk;
mod failing;
mod life;
mod limits;
mod lookups;
#[path = "../../tests/it/property/model.rs"]
mod model;
mod plan;
mod progress;
mod races;
mod revoke;
mod run;
#[path = "../../src/split_mix.rs"]
mod split_mix;
mod tasks;
mod world;

pub use run::{Options, Run, run};
use tasks::relay;
