//! The engine on one thread, for a simulation of it: no thread, no time and no chance but the
//! driver's.
//!
//! What runs here is the engine itself. What a simulation decides is when the store writes (its actor
//! lives in a [`LocalSet`] of its own, and what is written at once is asked for), when a blocking task gets its thread, which actors die, and
//! which words come twice; the order of all else follows from that.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;

use tokio::task::LocalSet;

use crate::actors::inbox::AttemptMessage;
use crate::actors::task_slab::TaskKey;
use crate::app::{App, AppBuilder};
use crate::error::Result;
use crate::messages::supervisor::ChildEvent;
use crate::messages::task::Finished;

/// What happens to the engine of this thread that it does not decide itself.
pub trait Chance {
    /// Whether an actor of this kind dies at the event that it has now.
    fn dies(&self, kind: &'static str) -> bool;

    /// Whether a word that has been said is heard once more; the second time may be late.
    fn repeats(&self) -> bool;

    /// Whether a few records are written where they were decided, and not when the store is polled.
    fn writes_at_once(&self) -> bool;

    /// Returns when there is a thread for a blocking task, or for what else blocks.
    fn free_thread(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

struct Stage {
    chance: Rc<dyn Chance>,
    /// Of notes that have been heard, what is to be heard once more.
    late: Vec<(TaskKey, AttemptMessage)>,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// From now on this decides on this thread.
pub fn set_chance(chance: Rc<dyn Chance>) {
    let late = Vec::new();
    STAGE.with(|stage| *stage.borrow_mut() = Some(Stage { chance, late }));
}

/// Starts an app in this thread's actix system. Its store is written to whenever `store` is polled,
/// and not otherwise. Dropping the system is a crash.
///
/// # Errors
///
/// As [`AppBuilder::start`].
pub async fn start(builder: AppBuilder, store: &LocalSet) -> Result<App> {
    builder.start_here(store).await
}

/// Shuts down an app that was started here, as [`App::shutdown`] does others.
///
/// # Errors
///
/// As [`App::shutdown`].
pub async fn shutdown(app: &App) -> Result<()> {
    app.shutdown_here().await
}

fn chance() -> Option<Rc<dyn Chance>> {
    STAGE.with(|stage| stage.borrow().as_ref().map(|stage| stage.chance.clone()))
}

pub(crate) fn fault(kind: &'static str) {
    if chance().is_some_and(|chance| chance.dies(kind)) {
        panic!("this {kind} actor dies because the simulation asked for it");
    }
}

pub(crate) fn writes_at_once() -> bool {
    chance().is_none_or(|chance| chance.writes_at_once())
}

pub(crate) async fn free_thread() {
    let thread = chance().map(|chance| chance.free_thread());
    if let Some(thread) = thread {
        thread.await;
    }
}

/// What children have said, some of it twice.
pub(crate) fn words(mut words: VecDeque<ChildEvent>) -> VecDeque<ChildEvent> {
    if let Some(chance) = chance() {
        let is_said =
            |word: &&ChildEvent| matches!(word, ChildEvent::Ended(_) | ChildEvent::Arrived(_));
        let again = words.iter().filter(is_said).filter(|_| chance.repeats());
        let again: Vec<_> = again.cloned().collect();
        words.extend(again);
    }
    words
}

/// What attempts have said, and some of what they had said before.
pub(crate) fn notes(mut notes: Vec<(TaskKey, AttemptMessage)>) -> Vec<(TaskKey, AttemptMessage)> {
    let Some(chance) = chance() else { return notes };
    let mut late = Vec::new();
    for (ticket, note) in &notes {
        if let AttemptMessage::Finished(Finished { attempt, end, .. }) = note
            && chance.repeats()
        {
            let again = Finished {
                attempt: *attempt,
                end: end.clone(),
                permit: None,
            };
            late.push((*ticket, AttemptMessage::Finished(again)));
        }
    }
    STAGE.with(|stage| {
        if let Some(stage) = &mut *stage.borrow_mut() {
            notes.append(&mut stage.late);
            stage.late = late;
        }
    });
    notes
}
