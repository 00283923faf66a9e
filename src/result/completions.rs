//! The elements of a group as they arrive.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::stage::{self, Stage};
use super::{AsyncResult, Wait, decode_element};
use crate::backend::Watch;
use crate::backend::durable_view::DurableView;
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Record};
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::canvas::payload::Payload;
use crate::error::{Error, GetError, Result};
use crate::persistence::records::{codec, keys};

impl<T: DeserializeOwned> AsyncResult<Vec<T>> {
    /// Returns the elements as they arrive: a group's members in the order in which they end, each
    /// with its index. A list that is not a group's arrives all at once. Members that the group's policy
    /// revokes ([`fail_fast`](crate::Signature::fail_fast), [`first`](crate::Signature::first)) do not
    /// arrive: the stream ends with the member that decides.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let members = ["1", "two", "3"].map(|text| parse.s(text.into()));
    /// let mut completions = app.apply_async(group(members)).await?.completions();
    /// while let Some(completion) = completions.next().await {
    ///     let Completion { index, outcome } = completion?;
    ///     match outcome {
    ///         Ok(number) => println!("member {index} gave {number}"),
    ///         Err(failure) => println!("member {index} failed: {}", failure.message),
    ///     }
    /// }
    /// # app.shutdown().await }
    /// ```
    pub fn completions(&self) -> Completions<T> {
        Completions {
            id: self.id,
            stage: Stage::Idle(Members {
                handle: self.clone().cast(),
                source: Source::Unknown,
                ready: VecDeque::new(),
            }),
            types: PhantomData,
        }
    }
}

/// The end of one member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion<T> {
    /// The position of the member in its group, and of its value in the group's list, counted from
    /// 0.
    pub index: usize,
    /// The value of the member, or its failure. The element of a
    /// [settled](crate::Signature::settled) group is a `Result` itself, and always present.
    pub outcome: Result<T, TaskFailure>,
}

/// The elements of a group as they arrive; see [`AsyncResult::completions`].
///
/// It is a [`Stream`], so the methods of `futures::StreamExt` apply; [`next`](Self::next) alone
/// needs no other crate. An item is an error if the stream itself fails: the app has ended, a value
/// has another type ([`GetError::Decode`]), or the group never began because a step before it
/// failed ([`Error::Failed`]). It is the last item.
#[must_use = "a stream does nothing until it is polled"]
pub struct Completions<T> {
    id: Id,
    stage: Stage<Members>,
    types: PhantomData<fn() -> T>,
}

/// An index, and the value as it is stored or the failure.
type Member = (u64, Result<Payload, TaskFailure>);

impl<T: DeserializeOwned> Completions<T> {
    /// Waits for the next element; `None` after the last one, and after an error. If the future is
    /// dropped, no element is lost.
    pub async fn next(&mut self) -> Option<Result<Completion<T>>> {
        let next = self.stage.next().await?;
        self.completion(next)
    }

    /// Returns the member as an item; after anything else the stream is over.
    fn completion(&mut self, next: Result<Option<Member>>) -> Option<Result<Completion<T>>> {
        let completion = match next {
            Ok(Some((index, outcome))) => self.decode(index, outcome).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(completion, Ok(Some(_))) {
            self.stage = Stage::Over;
        }
        completion.transpose()
    }

    fn decode(&self, index: u64, outcome: Result<Payload, TaskFailure>) -> Result<Completion<T>> {
        Ok(Completion {
            index: index as usize,
            outcome: match outcome {
                Ok(payload) => Ok(decode_element(self.id, index, &payload)?),
                Err(failure) => Err(failure),
            },
        })
    }
}

impl<T: DeserializeOwned> Stream for Completions<T> {
    type Item = Result<Completion<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.stage.poll_next(context);
        next.map(|next| self.completion(next?))
    }
}

impl<T> fmt::Debug for Completions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Reads the members of a group as they end.
struct Members {
    handle: AsyncResult<()>,
    source: Source,
    ready: VecDeque<Member>,
}

enum Source {
    /// The group has not been searched for yet.
    Unknown,
    Group {
        group: Id,
        size: u64,
        settled: bool,
        seen: HashSet<u64>,
        /// The last commit of the group's stream that was read.
        after: Option<u64>,
        watch: Watch,
    },
    Exhausted,
}

impl stage::Source for Members {
    /// `None` after the last member.
    type Item = Result<Option<Member>>;

    async fn next(&mut self) -> Result<Option<Member>> {
        loop {
            if let Some(member) = self.ready.pop_front() {
                return Ok(Some(member));
            }
            if matches!(self.source, Source::Exhausted) {
                return Ok(None);
            }
            self.more().await?;
        }
    }
}

impl Members {
    async fn more(&mut self) -> Result<()> {
        match &mut self.source {
            Source::Exhausted => Ok(()),
            Source::Unknown => self.look_for_group().await,
            Source::Group {
                group,
                size,
                settled,
                seen,
                after,
                watch,
            } => {
                if seen.len() as u64 == *size {
                    self.source = Source::Exhausted;
                    return Ok(());
                }
                let (group, settled) = (*group, *settled);
                let handle = &self.handle;
                let view = handle.view().clone();
                let check = || {
                    // Read first: if it has ended, all its pages are written.
                    let has_ended = handle.resolution_now()?.is_some();
                    let pages = view
                        .reader()?
                        .segments_after(group, *after)
                        .collect::<Result<Vec<_>, _>>()?;
                    Ok((has_ended || !pages.is_empty()).then_some(pages))
                };
                let pages = handle.until(watch, check, Wait::Open).await?;
                if pages.is_empty() {
                    // A step before the group failed, so the group never began.
                    return self.whole_list().await;
                }
                let mut is_decided = false;
                for (key, page) in pages {
                    *after = keys::number_of(&key);
                    for record in codec::segment_records(&key, &page)? {
                        is_decided |= matches!(record, Record::Verdict(_));
                        if let Record::Child {
                            index,
                            change: ChildProgress::Done(outcome),
                        } = record
                            && seen.insert(index)
                        {
                            let mut all = Vec::new();
                            view.reader()?.flatten(group.root(), outcome, &mut all)?;
                            for outcome in all {
                                let element = element(&view, group, outcome, settled);
                                self.ready.push_back((index, element?));
                            }
                        }
                    }
                }
                if is_decided {
                    // Members that the verdict has left out have no outcome of their own.
                    self.source = Source::Exhausted;
                }
                Ok(())
            }
        }
    }

    /// Waits until it is known which group gives the list, or that no group does.
    async fn look_for_group(&mut self) -> Result<()> {
        let reader = self.handle.reader()?;
        let node = self.handle.node(&reader)?;
        let root = self.handle.id.root();
        let Some((seq, fan)) = node.last_group() else {
            return self.whole_list().await;
        };
        let group = root.node(seq);
        let fan = fan.clone();
        let view = self.handle.view().clone();
        let mut ids = vec![group, root.workflow_stream()];
        if let Some(location) = &self.handle.location {
            ids.extend(location.decided_in(root));
        }
        // An `each()` knows its size when it starts; if it never starts, there is an outcome.
        let size = match reader.expansion(group, &fan)? {
            Some((_, size)) => Some(size),
            None => {
                let watch = self.handle.watch(ids.clone())?;
                let check = || {
                    if let Some((_, size)) = view.reader()?.expansion(group, &fan)? {
                        return Ok(Some(Some(size)));
                    }
                    Ok(self.handle.resolution_now()?.map(|_| None))
                };
                self.handle.until(&watch, check, Wait::Open).await?
            }
        };
        let Some(size) = size.filter(|size| *size > 0) else {
            return self.whole_list().await;
        };
        self.source = Source::Group {
            watch: self.handle.watch(ids)?,
            group,
            size,
            settled: fan.policy.is_settled(),
            seen: HashSet::new(),
            after: None,
        };
        Ok(())
    }

    async fn whole_list(&mut self) -> Result<()> {
        let id = self.handle.id;
        let value = match self.handle.wait(Wait::Open).await? {
            Outcome::Failure(failure) | Outcome::Revoked(failure) => {
                return Err(Error::Failed(failure));
            }
            Outcome::Success(value) => value,
        };
        let list = self.handle.view().load(id.root(), value).await?;
        let elements = list
            .elements()
            .map_err(|what| Error::Get(GetError::Decode { id, what }))?;
        self.ready = (0..).zip(elements.into_iter().map(Ok)).collect();
        // Set last: if this future is dropped before, the list is read again.
        self.source = Source::Exhausted;
        Ok(())
    }
}

/// Returns a member's outcome as an element of its group's list.
fn element(
    view: &DurableView,
    group: Id,
    outcome: Outcome,
    settled: bool,
) -> Result<Result<Payload, TaskFailure>> {
    Ok(match outcome {
        Outcome::Failure(failure) | Outcome::Revoked(failure) if !settled => Err(*failure),
        outcome => Ok(view.reader()?.element(group.root(), &outcome, settled)?),
    })
}
