//! Why a workflow or a task waits, as far as the store and what the app lists show it.

use super::durable_view::DurableView;
use crate::canvas::admission::control::ControlTarget;
use crate::canvas::freeze::TaskDef;
use crate::canvas::id::Id;
use crate::canvas::parked::NOT_REGISTERED;
use crate::canvas::why::Why;
use crate::error::{IdError, Result};
use crate::persistence::records::reader::{Reader, StoredWhy};
use crate::task::Registry;

/// What is known without the engine.
#[derive(Debug)]
pub(crate) enum Known {
    /// The whole answer.
    Whole(Why),
    /// The task is in memory, and these reasons hold besides what the engine knows.
    Task {
        def: TaskDef,
        has_started: bool,
        why: Vec<Why>,
    },
}

/// Returns what the node with this id waits for.
pub(crate) fn known(
    view: &DurableView,
    registry: &Registry,
    reader: &Reader,
    id: Id,
) -> Result<Known> {
    let location = reader.find(id)?.ok_or(IdError::Unknown { id })?;
    let stored = reader.why(id.root(), &location, view.clock.time())?;
    let (def, has_started) = match stored {
        StoredWhy::Known(why) => return Ok(Known::Whole(why)),
        StoredWhy::Task { def, has_started } => (def, has_started),
    };
    if view.is_quarantined(id) {
        return Ok(Known::Whole(Why::Quarantine));
    }
    let task = def.name.to_string();
    if let Some(parked) = view.parked().remove(&id)
        && parked.reason != NOT_REGISTERED
    {
        let reason = parked.reason;
        return Ok(Known::Whole(Why::Misfit { task, reason }));
    }
    let Some(entry) = registry.get(&def.name) else {
        return Ok(Known::Whole(Why::Unregistered { task }));
    };
    let own = def.options.as_deref().and_then(|own| own.queue.as_deref());
    let own_queue = own.unwrap_or(entry.options.queue);
    let mut why = Vec::new();
    for (target, settings) in reader.controls()? {
        match target {
            _ if !settings.is_paused => {}
            ControlTarget::Queue(queue) if queue == own_queue => {
                why.push(Why::PausedQueue { queue });
            }
            ControlTarget::Task(task) if task == *def.name => {
                why.push(Why::PausedTask { task });
            }
            ControlTarget::Queue(_) | ControlTarget::Task(_) => {}
        }
    }
    Ok(Known::Task {
        def,
        has_started,
        why,
    })
}

/// Returns all reasons: those that are `known` and those of the engine.
pub(crate) fn combine(has_started: bool, known: Vec<Why>, engine: Vec<Why>) -> Vec<Why> {
    if engine.is_empty() && has_started {
        return vec![Why::Running];
    }
    let mut all = known;
    all.extend(engine);
    if all.is_empty() {
        all.push(Why::Turn);
    }
    all
}
