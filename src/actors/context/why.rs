//! What a task waits for that the store does not show.

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::dispatch::dispatcher::{Place, Ready};
use crate::canvas::admission::signature_rate;
use crate::canvas::admission::start_limits::{LimitName, LimitedBy};
use crate::canvas::freeze::TaskDef;
use crate::canvas::id::Id;
use crate::canvas::time::Moment;
use crate::canvas::why::Why;
use crate::persistence::records::reader::shown;

impl EngineContext {
    /// Returns what this task waits for; nothing if it waits neither for a slot nor for a trial. It
    /// looks through the tasks that wait for the same slots.
    pub(crate) fn why(&self, id: Id, def: &TaskDef) -> Vec<Why> {
        let Some(entry) = self.entry(&def.name) else {
            return Vec::new();
        };
        let slot = self.slot(entry, def.options.as_deref());
        let tasks = &self.0.tasks;
        let dispatcher = tasks.dispatcher.borrow();
        let is_it = |task: &Ready<Box<Child>>| match task {
            Ready::New(child) => child.id() == id,
            Ready::Known(key) | Ready::Waited(key) => tasks.slab.borrow().id(*key) == Some(id),
        };
        let mut why = Vec::new();
        let place = dispatcher.find_waiting(slot, self.steady_ms(), is_it);
        if self.is_on_hold(id) || place.is_some() && dispatcher.is_held_back() {
            why.push(Why::Trial);
        }
        if place.is_some() && dispatcher.is_paused() {
            why.push(Why::PausedApp);
        }
        let at = |at_ms: Option<u64>| at_ms.map(|ms| shown(self.time(), Moment::steady(ms)));
        match place {
            Some(Place::Limited(LimitedBy::Limit { name, key, at_ms })) => {
                let (of, key) = match name {
                    LimitName::Task(name) => (format!("the task `{name}`"), key),
                    LimitName::Named(name) => (format!("the limit `{name}`"), key),
                    LimitName::Queue(name) => (format!("the queue `{name}`"), key),
                    LimitName::Signatures => {
                        let key = key.and_then(|key| signature_rate::limit_key_of(&key));
                        ("its signature".to_owned(), key)
                    }
                };
                why.push(Why::Limit {
                    of,
                    key,
                    at: at(at_ms),
                });
            }
            Some(Place::Limited(LimitedBy::Breaker { name, at_ms })) => why.push(Why::Breaker {
                breaker: match name {
                    LimitName::Task(name) | LimitName::Named(name) | LimitName::Queue(name) => name,
                    LimitName::Signatures => String::new(),
                },
                at: at(at_ms),
            }),
            // Its limits would let it start: it waits for a slot, before or after tasks without.
            Some(Place::Limited(LimitedBy::Slot { before, waiting }))
            | Some(Place::Queue { before, waiting }) => {
                let own = def.options.as_deref().and_then(|own| own.queue.as_deref());
                why.push(Why::Queue {
                    queue: own.unwrap_or(entry.options.queue).to_owned(),
                    position: before + 1,
                    waiting,
                });
            }
            None => {}
        }
        why
    }
}
