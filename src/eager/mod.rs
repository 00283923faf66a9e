//! Eager mode: a submitted canvas runs in the thread that submits it (Celery's
//! `task_always_eager`).
//!
//! The machines decide as they do in the engine; a stack of [frames](frame) carries out one effect
//! after the other and writes the same records, without threads, timers or actix.

mod frame;
mod run;
mod store;
mod supervisor;
mod task;

use std::sync::Arc;

use self::run::Run;
pub(crate) use self::store::EagerStore;
pub(crate) use self::task::Attempt;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::view::Shared;
use crate::canvas::freeze::Node;
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::error::Result;
use crate::persistence::Pair;
use crate::persistence::records::commit_builder::CommitBuilder;
use crate::persistence::records::definition::Definition;

/// Stores the workflow and runs it to its end: the root, then the callbacks. Returns an earlier
/// workflow with the same idempotency key instead, if there is one.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    ledger: &EagerStore,
    root_id: Id,
    Definition { header: head, root }: Definition,
    by: Option<Id>,
    segments: Vec<Pair>,
) -> Result<RetentionGuard> {
    if let Some(earlier) = ledger.submit(shared, root_id, &head, by, segments)? {
        return Ok(shared.pin(earlier));
    }
    let pin = shared.pin(root_id);
    let run = Arc::new(Run::new(shared.clone(), root_id, &root, head));
    let unfinished = Unfinished(Some(run.clone()));
    run_to_rest(&run, root).await?;
    unfinished.came_to_rest();
    Ok(pin)
}

async fn run_to_rest(run: &Arc<Run>, root: Node) -> Result<()> {
    let report = frame::run_to_end(run, ChildSpec::root(run.root, root)).await?;
    let mut draft = CommitBuilder::default();
    run.root_ended(report, &mut draft);
    run.commit(draft)?;
    // Not earlier: a callback may wait for the workflow that it belongs to.
    while let Some(due) = run.next_callback() {
        let seq = due.node.seq;
        let report = frame::run_to_end(run, ChildSpec::callback(run.root, due)).await?;
        let mut draft = CommitBuilder::default();
        run.callback_ended(seq, report, &mut draft);
        run.commit(draft)?;
    }
    Ok(())
}

/// Abandons a run whose future is dropped, so that no caller waits for it any more.
struct Unfinished(Option<Arc<Run>>);

impl Unfinished {
    fn came_to_rest(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run.abandon();
        }
    }
}
