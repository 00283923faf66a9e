//! The members of a group: an iterator that is drawn once, when the group is frozen, or the list
//! that it has become for whoever must look twice (celery/utils/functional.py, `regen`).

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec;

use super::Canvas;

/// What promises no more members than this is drawn at once, so that canvases put together by hand
/// know their depth. Not many, because groups in groups multiply.
const FEW: usize = 16;

/// Clones share the members. Whoever has them alone takes them as they are drawn; whoever does not
/// makes them a list.
#[derive(Clone)]
pub(crate) struct LazyMembers(Arc<Inner>);

struct Inner {
    /// What is still to be drawn, unless it is a list.
    lazy: Mutex<Option<Lazy>>,
    list: OnceLock<Vec<Canvas>>,
    /// That of the deepest member, as far as it is known: what is drawn later is measured when it
    /// is frozen.
    depth: usize,
}

type Change = Box<dyn Fn(&mut Canvas) + Send>;

struct Lazy {
    source: Box<dyn Iterator<Item = Canvas> + Send>,
    /// What happens to each member that is drawn, in this order.
    changes: Vec<Change>,
}

impl LazyMembers {
    pub(crate) fn new(members: impl IntoIterator<Item = Canvas, IntoIter: Send + 'static>) -> Self {
        let source = members.into_iter();
        if source.size_hint().1.is_some_and(|most| most <= FEW) {
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

    /// All members; they are drawn if they have not been.
    pub(crate) fn list(&self) -> &[Canvas] {
        self.0.list.get_or_init(|| {
            let lazy = locked(&self.0.lazy).take();
            lazy.map_or_else(spent, Iterator::collect)
        })
    }

    /// The members, if they have been drawn.
    pub(crate) fn drawn(&self) -> Option<&[Canvas]> {
        self.0.list.get().map(Vec::as_slice)
    }

    /// The most members there can be, as far as the iterator says.
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

    /// As [`list`](Self::list), for changes that others who share the members do not see.
    pub(crate) fn list_mut(&mut self) -> &mut [Canvas] {
        self.list();
        if Arc::get_mut(&mut self.0).is_none() {
            *self = self.list().to_vec().into();
        }
        let inner = Arc::get_mut(&mut self.0).expect("nobody else has it");
        inner.list.get_mut().expect("it is a list")
    }

    /// Changes each member: now, or when it is drawn.
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

/// (An iterator that panics as it is asked for its size leaves what there is as it was.)
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unlocked<T>(lock: &mut Mutex<T>) -> &mut T {
    lock.get_mut().unwrap_or_else(PoisonError::into_inner)
}

/// What is left of members whose iterator panicked when they were drawn.
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

/// The members, one after the other.
pub(crate) struct Draw(Members);

enum Members {
    Lazy(Lazy),
    List(vec::IntoIter<Canvas>),
    /// Somebody else may want them too: cloned one by one, up to here.
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
            Members::Shared(regen, at) => {
                let member = regen.list().get(*at).cloned();
                *at += 1;
                member
            }
        }
    }
}

type Contents = (Option<Lazy>, Option<Vec<Canvas>>);

thread_local! {
    /// Members that are to be dropped, while others are.
    static DROPPING: RefCell<Option<Vec<Contents>>> = const { RefCell::new(None) };
}

impl Drop for Inner {
    /// Not recursive: nobody knows how deep groups are nested that have not been drawn.
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
        // (An error: the thread is ending, and has no list any more.)
        if is_first == Ok(true) {
            let rest = Rest;
            while let Some(next) = contents.take() {
                drop(next);
                contents = DROPPING.with(|dropping| dropping.borrow_mut().as_mut()?.pop());
            }
            drop(rest);
        }
    }
}

/// Ends the dropping, also where an iterator panics in it.
struct Rest;

impl Drop for Rest {
    fn drop(&mut self) {
        let rest = DROPPING.with(|dropping| dropping.borrow_mut().take());
        drop(rest);
    }
}
