//! Watches: waiters for changes of what they name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::id::Id;
use crate::error::{Error, Result};

/// The watches of a store, and the reason of its end, which wakes them all.
#[derive(Debug, Default)]
pub(super) struct WatchList {
    /// The reason why the engine has stopped, once it has.
    ended: Mutex<Option<Error>>,
    watches: Mutex<Watches>,
    /// The number of watches: a commit takes no lock while there is none.
    watched: AtomicUsize,
}

impl WatchList {
    /// Returns the reason why the engine has stopped, if it has.
    pub(super) fn ended(&self) -> Option<Error> {
        self.ended.lock().clone()
    }

    /// Notes the reason of the end. The first one stays.
    pub(super) fn note_end(&self, why: Error) {
        self.ended.lock().get_or_insert(why);
    }

    /// Wakes every watch.
    pub(super) fn wake_all(&self) {
        let watching = self.watches.lock().all();
        watching.iter().for_each(|notify| notify.notify_waiters());
    }

    pub(super) fn watch(self: &Arc<Self>, ids: Vec<Id>) -> Watch {
        let notify = Arc::new(Notify::new());
        let number = self.watches.lock().add(&ids, &notify);
        self.watched.fetch_add(1, Ordering::SeqCst);
        Watch {
            list: self.clone(),
            ids,
            number,
            notify,
        }
    }

    /// Wakes the watches of these ids.
    pub(super) fn wake(&self, touched: &[Id]) {
        if self.watched.load(Ordering::SeqCst) == 0 {
            return;
        }
        // (Woken outside the lock: there may be many.)
        let watching = self.watches.lock().of(touched);
        watching.iter().for_each(|notify| notify.notify_waiters());
    }
}

/// The watches by id, in the order in which they began. Many watches may share an id and each is
/// added and removed by itself, so removal must not search through the others.
#[derive(Debug, Default)]
struct Watches {
    by_id: HashMap<Id, BTreeMap<u64, Arc<Notify>>>,
    /// The number of the next watch.
    next: u64,
}

impl Watches {
    /// Adds a watch of these ids; returns its number.
    fn add(&mut self, ids: &[Id], notify: &Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        for id in ids {
            let watching = self.by_id.entry(*id).or_default();
            watching.insert(number, notify.clone());
        }
        number
    }

    fn remove(&mut self, ids: &[Id], number: u64) {
        for id in ids {
            if let Some(watching) = self.by_id.get_mut(id) {
                watching.remove(&number);
                if watching.is_empty() {
                    self.by_id.remove(id);
                }
            }
        }
    }

    fn of(&self, ids: &[Id]) -> Vec<Arc<Notify>> {
        let watching = ids.iter().filter_map(|id| self.by_id.get(id));
        watching.flat_map(BTreeMap::values).cloned().collect()
    }

    fn all(&self) -> Vec<Arc<Notify>> {
        let watching = self.by_id.values();
        watching.flat_map(BTreeMap::values).cloned().collect()
    }
}

/// A registered watch.
#[derive(Debug)]
pub(crate) struct Watch {
    list: Arc<WatchList>,
    ids: Vec<Id>,
    number: u64,
    notify: Arc<Notify>,
}

impl Watch {
    /// Calls `check` now and after each change until it returns a value.
    pub(crate) async fn until<T>(&self, check: impl Fn() -> Result<Option<T>>) -> Result<T> {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no change is missed between check and wait.
            notified.as_mut().enable();
            let ended = self.list.ended();
            match (check(), ended) {
                (Ok(Some(seen)), _) => return Ok(seen),
                (Ok(None) | Err(_), Some(why)) => return Err(why),
                (Err(error), None) => return Err(error),
                (Ok(None), None) => {}
            }
            notified.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.list.watches.lock().remove(&self.ids, self.number);
        self.list.watched.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_one_id_are_added_and_removed_in_any_order() {
        let ids: Vec<_> = (1..4).map(|ms| Id::next(None, ms, 0)).collect();
        let mut watches = Watches::default();
        let notify: Vec<_> = (0..100).map(|_| Arc::new(Notify::new())).collect();
        let numbers: Vec<_> = notify.iter().map(|one| watches.add(&ids, one)).collect();
        let is_one = |a: &[Arc<Notify>], b: &[Arc<Notify>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        assert!(is_one(&watches.of(&ids[1..2]), &notify));
        for at in (0..100).filter(|at| at % 3 != 0) {
            watches.remove(&ids, numbers[at]);
        }
        let left: Vec<_> = notify.iter().step_by(3).cloned().collect();
        assert!(is_one(&watches.of(&ids[2..]), &left));
        assert_eq!(watches.all().len(), 3 * left.len());
        for at in (0..100).step_by(3) {
            watches.remove(&ids, numbers[at]);
        }
        assert!(watches.by_id.is_empty() && watches.all().is_empty());
    }
}
