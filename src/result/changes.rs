//! What changes about a canvas, as a stream that ends with its outcome.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::progress::{Progress, TaskInfo};
use super::stage::{self, Stage};
use super::{AsyncResult, Wait};
use crate::backend::Watch;
use crate::canvas::id::Id;
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::canvas::payload::Payload;
use crate::canvas::state::State;
use crate::error::{Error, GetError, Result};
use crate::persistence::Pair;
use crate::persistence::records::keys;
use crate::persistence::records::reader::{MemberCounts, NodeLocation, Resolution};

/// One change of a canvas; see [`AsyncResult::changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<O> {
    /// It has this state now. The first item of a stream is one.
    State(State),
    /// A task has reported this of itself, with [`ctx.progress(…)`](crate::TaskContext::progress)
    /// or [`ctx.update_state(…)`](crate::TaskContext::update_state).
    Info(TaskInfo),
    /// So many of its members have ended, and so many run. Only of a group, chord or fold.
    Progress(Progress),
    /// It has ended with this outcome. The last item.
    Ended(Result<O, TaskFailure>),
}

impl<O: DeserializeOwned> AsyncResult<O> {
    /// Returns its changes from now on, as a [`Stream`] that ends with its outcome: first the state
    /// that it has, then each change of the state, of what a task reports, and of how many members
    /// have ended.
    ///
    /// It tells what is true, not all that was: of changes that come faster than they are taken,
    /// only the last is an item. A state is told when it is durable; a report, which is advisory,
    /// at once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::Change;
    ///
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sums = app.apply_async(group((0..3).map(|i| add.s(i, i)))).await?;
    /// let mut changes = sums.changes();
    /// let mut outcome = None;
    /// while let Some(change) = changes.next().await {
    ///     match change? {
    ///         Change::State(state) => println!("{state}"),
    ///         Change::Info(info) => println!("{}", info.state()),
    ///         Change::Progress(progress) => println!("{} of {:?}", progress.done, progress.total),
    ///         Change::Ended(ended) => outcome = Some(ended),
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(outcome, Some(Ok(vec![0, 2, 4])));
    /// # app.shutdown().await }
    /// ```
    pub fn changes(&self) -> Changes<O> {
        Changes {
            id: self.id,
            stage: Stage::Idle(Seen {
                handle: self.clone().cast(),
                subject: None,
                state: None,
                info: None,
                progress: None,
                ready: VecDeque::new(),
            }),
            types: PhantomData,
        }
    }
}

/// The changes of a canvas; see [`AsyncResult::changes`].
///
/// It is a [`Stream`], so the methods of `futures::StreamExt` apply; [`next`](Self::next) alone
/// needs no other crate. An item is an error if the stream itself fails: the app has ended, the
/// value has another type ([`GetError::Decode`]), or it is a callback that will never run
/// ([`GetError::NeverRuns`]). It is the last item.
#[must_use = "a stream does nothing until it is polled"]
pub struct Changes<O> {
    id: Id,
    stage: Stage<Seen>,
    types: PhantomData<fn() -> O>,
}

impl<O: DeserializeOwned> Changes<O> {
    /// Waits for the next change; `None` after the outcome, and after an error. If the future is
    /// dropped, no change is lost.
    pub async fn next(&mut self) -> Option<Result<Change<O>>> {
        let next = self.stage.next().await?;
        Some(self.item(next))
    }

    /// Returns the change as an item; after the outcome or an error the stream is over.
    fn item(&mut self, next: Result<Change<Payload>>) -> Result<Change<O>> {
        let item = match next {
            Ok(Change::State(state)) => return Ok(Change::State(state)),
            Ok(Change::Info(info)) => return Ok(Change::Info(info)),
            Ok(Change::Progress(progress)) => return Ok(Change::Progress(progress)),
            Ok(Change::Ended(Err(failure))) => Ok(Change::Ended(Err(failure))),
            Ok(Change::Ended(Ok(value))) => match value.decode() {
                Ok(value) => Ok(Change::Ended(Ok(value))),
                Err(what) => Err(Error::Get(GetError::Decode { id: self.id, what })),
            },
            Err(error) => Err(error),
        };
        self.stage = Stage::Over;
        item
    }
}

impl<O: DeserializeOwned> Stream for Changes<O> {
    type Item = Result<Change<O>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.stage.poll_next(context);
        next.map(|next| Some(self.item(next?)))
    }
}

impl<O> fmt::Debug for Changes<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

/// What the stream has told so far.
struct Seen {
    handle: AsyncResult<()>,
    /// Set with the first poll.
    subject: Option<Subject>,
    state: Option<State>,
    info: Option<TaskInfo>,
    progress: Option<Progress>,
    ready: VecDeque<Change<Payload>>,
}

/// What the stream watches.
struct Subject {
    location: NodeLocation,
    watch: Watch,
    /// The counts of its members, once their number is known.
    counts: Option<MemberCounts>,
    /// The last commit of the members' stream that was read.
    after: Option<u64>,
}

/// What is new, read at one point in time.
struct News {
    resolution: Option<Resolution>,
    state: State,
    info: Option<TaskInfo>,
    pages: Vec<Pair>,
}

impl stage::Source for Seen {
    type Item = Result<Change<Payload>>;

    async fn next(&mut self) -> Result<Change<Payload>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            if self.subject.is_none() {
                self.subject = Some(self.subject()?);
            }
            let news = self.news().await?;
            self.take(news).await?;
        }
    }
}

impl Seen {
    fn subject(&self) -> Result<Subject> {
        let (handle, root) = (&self.handle, self.handle.id.root());
        let location = handle.target().find(&handle.reader()?)?;
        // Its own stream is that of its members, and the id under which a task reports.
        let mut ids = handle.decided_in();
        ids.extend([handle.id, root.workflow_stream()]);
        Ok(Subject {
            location,
            watch: handle.watch(ids)?,
            counts: None,
            after: None,
        })
    }

    /// Waits until something is new.
    async fn news(&self) -> Result<News> {
        let (handle, root) = (&self.handle, self.handle.id.root());
        let subject = self.subject.as_ref().expect("set by the caller");
        let is_group = subject.location.node.def.header().is_some();
        let check = || {
            // One snapshot: what has ended has all its pages.
            let reader = handle.reader()?;
            let resolution = handle.target().resolution(&reader)?;
            let state = match handle.view().is_quarantined(handle.id) {
                true => State::Quarantined,
                false => handle.target().state(&reader)?,
            };
            let info = match resolution {
                Some(_) => None,
                None => handle.info_now(),
            };
            let pages = match is_group {
                true => {
                    let stream = root.node(subject.location.node.seq);
                    let pages = reader.segments_after(stream, subject.after);
                    pages.collect::<Result<Vec<_>, _>>()?
                }
                false => Vec::new(),
            };
            let is_new = resolution.is_some()
                || self.state != Some(state)
                || info.is_some() && self.info != info
                || !pages.is_empty();
            Ok(is_new.then_some(News {
                resolution,
                state,
                info,
                pages,
            }))
        };
        handle.until(&subject.watch, check, Wait::Open).await
    }

    /// Turns what is new into changes.
    async fn take(&mut self, news: News) -> Result<()> {
        let root = self.handle.id.root();
        let ended = match news.resolution {
            None => None,
            Some(Resolution::Never) => {
                let id = self.handle.id;
                return Err(Error::Get(GetError::NeverRuns { id }));
            }
            Some(Resolution::Ended(Outcome::Success(value))) => {
                Some(Ok(self.handle.view().load(root, value).await?))
            }
            Some(Resolution::Ended(Outcome::Failure(failure) | Outcome::Revoked(failure))) => {
                Some(Err(*failure))
            }
        };
        // No await from here on: what was read is told, or read again.
        if self.state != Some(news.state) {
            self.state = Some(news.state);
            self.ready.push_back(Change::State(news.state));
        }
        if let Some(info) = news.info
            && self.info.as_ref() != Some(&info)
        {
            self.info = Some(info.clone());
            self.ready.push_back(Change::Info(info));
        }
        if let Some(progress) = self.progress(&news.pages)?
            && self.progress != Some(progress)
        {
            self.progress = Some(progress);
            self.ready.push_back(Change::Progress(progress));
        }
        self.ready.extend(ended.map(Change::Ended));
        Ok(())
    }

    /// Adds the pages to the counts of the members; returns the progress if they are known.
    fn progress(&mut self, pages: &[Pair]) -> Result<Option<Progress>> {
        let (handle, root) = (&self.handle, self.handle.id.root());
        let Some(subject) = self.subject.as_mut().filter(|_| !pages.is_empty()) else {
            return Ok(None);
        };
        let reader = handle.reader()?;
        if subject.counts.is_none() {
            // (Before the number is known there are no members.)
            let size = reader.member_count(root, &subject.location)?;
            subject.counts = size.map(MemberCounts::new);
        }
        let Some(counts) = &mut subject.counts else {
            return Ok(None);
        };
        for page in pages {
            counts.add(page)?;
            subject.after = keys::number_of(&page.0);
        }
        let progress = handle
            .target()
            .progress(&reader, &subject.location, Some(counts))?;
        Ok(Some(progress))
    }
}
