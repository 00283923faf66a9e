//! The members of a group: an iterator that is drawn once, when the group is frozen, or the list
//! that it becomes if it must be read twice (celery/utils/functional.py, `regen`).

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec;

use super::Canvas;

/// An iterator that promises at most this many members is drawn at once, so that canvases built by
/// hand know their depth. The number is small because nested groups multiply.
const EAGER_MAX: usize = 16;

/// Clones share the members. The only owner can take them as they are drawn; with several owners
/// they become a list.
#[derive(Clone)]
pub(crate) struct LazyMembers(Arc<Inner>);

struct Inner {
    /// The members that are not drawn yet; `None` if there is a list.
    lazy: Mutex<Option<Lazy>>,
    list: OnceLock<Vec<Canvas>>,
    /// The depth of the deepest known member. Members drawn later are measured when they are
    /// frozen.
    depth: usize,
}

type Change = Box<dyn Fn(&mut Canvas) + Send>;

struct Lazy {
    source: Box<dyn Iterator<Item = Canvas> + Send>,
    /// The changes to apply to each drawn member, in this order.
    changes: Vec<Change>,
}

impl LazyMembers {
    pub(crate) fn new(members: impl IntoIterator<Item = Canvas, IntoIter: Send + 'static>) -> Self {
        let source = members.into_iter();
        if source.size_hint().1.is_some_and(|most| most <= EAGER_MAX) {
            return source.collect::<Vec<_>>().into();
        }
        Self(Arc::new(Inner {
            lazy: Mutex::new(Some(Lazy {
                source: Box::new(source),
                changes: Vec::new(),
            })),
            list: OnceLock::new(),
            depth: 0,
        }))
    }

    /// Returns all members, and draws them if necessary.
    pub(crate) fn list(&self) -> &[Canvas] {
        self.0.list.get_or_init(|| {
            let lazy = locked(&self.0.lazy).take();
            lazy.map_or_else(spent, Iterator::collect)
        })
    }

    /// Returns the members if they have been drawn.
    pub(crate) fn drawn(&self) -> Option<&[Canvas]> {
        self.0.list.get().map(Vec::as_slice)
    }

    /// Returns the upper bound of the number of members, if the iterator gives one.
    pub(crate) fn at_most(&self) -> Option<usize> {
        if let Some(list) = self.drawn() {
            return Some(list.len());
        }
        let lazy = locked(&self.0.lazy);
        lazy.as_ref().map_or(Some(0), |lazy| lazy.size_hint().1)
    }

    pub(crate) fn depth(&self) -> usize {
        self.0.depth
    }

    /// As [`list`](Self::list), for changes that other owners of the members do not see.
    pub(crate) fn list_mut(&mut self) -> &mut [Canvas] {
        self.list();
        if Arc::get_mut(&mut self.0).is_none() {
            *self = self.list().to_vec().into();
        }
        let inner = Arc::get_mut(&mut self.0).expect("there is no other owner");
        inner.list.get_mut().expect("it is a list")
    }

    /// Applies `change` to each member, now or when the member is drawn.
    pub(crate) fn change(&mut self, change: impl Fn(&mut Canvas) + Send + 'static) {
        if let Some(inner) = Arc::get_mut(&mut self.0)
            && let Some(lazy) = unlocked(&mut inner.lazy)
        {
            return lazy.changes.push(Box::new(change));
        }
        self.list_mut().iter_mut().for_each(change);
    }
}

impl From<Vec<Canvas>> for LazyMembers {
    fn from(members: Vec<Canvas>) -> Self {
        Self(Arc::new(Inner {
            lazy: Mutex::new(None),
            depth: members.iter().map(Canvas::depth).max().unwrap_or(0),
            list: OnceLock::from(members),
        }))
    }
}

/// Locks a mutex. (If an iterator panics when asked for its size, the data is still valid.)
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unlocked<T>(lock: &mut Mutex<T>) -> &mut T {
    lock.get_mut().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the members that remain after their iterator panicked while it was drawn.
fn spent() -> Vec<Canvas> {
    let reason = "the iterator of the members has panicked before";
    vec![Canvas::refused(reason.to_owned())]
}

impl Iterator for Lazy {
    type Item = Canvas;

    fn next(&mut self) -> Option<Canvas> {
        let mut member = self.source.next()?;
        self.changes.iter().for_each(|change| change(&mut member));
        Some(member)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.source.size_hint()
    }
}

/// An iterator over the members.
pub(crate) struct Draw(Members);

enum Members {
    Lazy(Lazy),
    List(vec::IntoIter<Canvas>),
    /// Other owners may need the members too, so they are cloned one by one. The number is the next
    /// index.
    Shared(LazyMembers, usize),
}

impl IntoIterator for LazyMembers {
    type Item = Canvas;
    type IntoIter = Draw;

    fn into_iter(mut self) -> Draw {
        let Some(inner) = Arc::get_mut(&mut self.0) else {
            return Draw(Members::Shared(self, 0));
        };
        Draw(match unlocked(&mut inner.lazy).take() {
            Some(lazy) => Members::Lazy(lazy),
            None => Members::List(inner.list.take().unwrap_or_else(spent).into_iter()),
        })
    }
}

impl Iterator for Draw {
    type Item = Canvas;

    fn next(&mut self) -> Option<Canvas> {
        match &mut self.0 {
            Members::Lazy(lazy) => lazy.next(),
            Members::List(list) => list.next(),
            Members::Shared(members, at) => {
                let member = members.list().get(*at).cloned();
                *at += 1;
                member
            }
        }
    }
}

type Contents = (Option<Lazy>, Option<Vec<Canvas>>);

thread_local! {
    /// Members waiting to be dropped while other members are dropped.
    static DROPPING: RefCell<Option<Vec<Contents>>> = const { RefCell::new(None) };
}

impl Drop for Inner {
    /// Drops iteratively, because undrawn groups may be nested to any depth.
    fn drop(&mut self) {
        let mut contents = Some((unlocked(&mut self.lazy).take(), self.list.take()));
        let is_first = DROPPING.try_with(|dropping| match &mut *dropping.borrow_mut() {
            Some(others) => {
                others.extend(contents.take());
                false
            }
            none => {
                *none = Some(Vec::new());
                true
            }
        });
        // (An error means that the thread is ending and its list is gone.)
        if is_first == Ok(true) {
            let clear = ClearDropping;
            while let Some(next) = contents.take() {
                drop(next);
                contents = DROPPING.with(|dropping| dropping.borrow_mut().as_mut()?.pop());
            }
            drop(clear);
        }
    }
}

/// Clears `DROPPING` at the end, even if an iterator panics while it is dropped.
struct ClearDropping;

impl Drop for ClearDropping {
    fn drop(&mut self) {
        let left = DROPPING.with(|dropping| dropping.borrow_mut().take());
        drop(left);
    }
}
