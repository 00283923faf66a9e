//! Eager mode: a submitted canvas runs in the thread that submits it (Celery's
//! `task_always_eager`).
//!
//! The machines decide as they do in the engine; a stack of [frames](frame) carries out one effect
//! after the other and writes the same records, without threads, timers or actix.

mod backend;
mod frame;
mod run;
mod step;
mod store;
mod supervisor;
mod task;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::run::Run;
pub(crate) use self::store::EagerStore;
use crate::backend::retention_guard::RetentionGuard;
use crate::canvas::freeze::Node;
use crate::canvas::id::Id;
use crate::canvas::machine::Report;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::error::Result;
use crate::persistence::Pair;
use crate::persistence::records::commit_builder::CommitBuilder;
use crate::persistence::records::definition::Definition;

/// Stores the workflow and runs it to its end: the root, then the callbacks. Returns an earlier
/// workflow with the same idempotency key instead, if there is one.
async fn run(
    store: &Arc<EagerStore>,
    root_id: Id,
    Definition {
        header: head, root, ..
    }: Definition,
    by: Option<Id>,
    segments: Vec<Pair>,
) -> Result<RetentionGuard> {
    if let Some(earlier) = store.submit(root_id, &head, by, segments)? {
        return Ok(store.view.pin(earlier));
    }
    let pin = store.view.pin(root_id);
    let run = Arc::new(Run::new(store.clone(), root_id, &root, head, run_to_end));
    let unfinished = Unfinished(Some(run.clone()));
    run_to_rest(&run, root).await?;
    unfinished.came_to_rest();
    Ok(pin)
}

async fn run_to_rest(run: &Arc<Run>, root: Node) -> Result<()> {
    let report = run.run_to_end(ChildSpec::root(run.root, root)).await?;
    let mut commit = CommitBuilder::default();
    run.root_ended(report, &mut commit);
    run.commit(commit)?;
    // Not earlier: a callback may wait for the workflow that it belongs to.
    while let Some(due) = run.next_callback() {
        let seq = due.node.seq;
        let report = run.run_to_end(ChildSpec::callback(run.root, due)).await?;
        let mut commit = CommitBuilder::default();
        run.callback_ended(seq, report, &mut commit);
        run.commit(commit)?;
    }
    Ok(())
}

fn run_to_end(run: Arc<Run>, spec: ChildSpec) -> BoxFuture<'static, Result<Report>> {
    Box::pin(async move { frame::run_to_end(&run, spec).await })
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
