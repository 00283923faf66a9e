//! The elements of a group as they arrive.

use std::collections::{HashSet, VecDeque};

use serde::de::DeserializeOwned;

use super::{AsyncResult, Wait, decode};
use crate::backend::view::{Shared, Watch};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Record};
use crate::canvas::outcome::Outcome;
use crate::canvas::payload::Payload;
use crate::error::{Error, Result};
use crate::persistence::records::codec;
use crate::persistence::records::keys;

impl<T: DeserializeOwned> AsyncResult<Vec<T>> {
    /// Returns the elements as they arrive: a group's members in the order in which they end, each
    /// with its index. A list that is not a group's arrives all at once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let group = app.apply_async(group((0..3).map(|i| add.s(i, i)))).await?;
    /// let mut sums = group.iter();
    /// while let Some((index, sum)) = sums.next().await {
    ///     assert_eq!(sum?, 2 * index as i64);
    /// }
    /// # app.shutdown().await }
    /// ```
    pub fn iter(&self) -> Completions<T> {
        Completions {
            handle: self.clone(),
            source: Source::Unknown,
            ready: VecDeque::new(),
        }
    }
}

/// The elements of a group as they arrive; see [`AsyncResult::iter`].
#[derive(Debug)]
pub struct Completions<T> {
    handle: AsyncResult<Vec<T>>,
    source: Source,
    ready: VecDeque<(u64, Element)>,
}

type Element = Result<Payload>;

#[derive(Debug)]
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

impl<T: DeserializeOwned> Completions<T> {
    /// Waits for the next element; `None` after the last one. After an error that is not the
    /// element's own (the app has ended) there is no further element.
    pub async fn next(&mut self) -> Option<(usize, Result<T>)> {
        loop {
            if let Some((index, element)) = self.ready.pop_front() {
                let id = self.handle.id;
                return Some((
                    index as usize,
                    element.and_then(|payload| decode(id, &payload)),
                ));
            }
            if let Err(error) = self.more().await {
                self.source = Source::Exhausted;
                return Some((0, Err(error)));
            }
            if self.ready.is_empty() && matches!(self.source, Source::Exhausted) {
                return None;
            }
        }
    }

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
                let shared = handle.shared.clone();
                let check = || {
                    // Read first: if it has ended, all its pages are written.
                    let has_ended = handle.resolution()?.is_some();
                    let pages = shared
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
                for (key, page) in pages {
                    *after = keys::number_of(&key);
                    for record in codec::segment_records(&key, &page)? {
                        if let Record::Child {
                            index,
                            change: ChildProgress::Done(outcome),
                        } = record
                            && seen.insert(index)
                        {
                            let mut all = Vec::new();
                            shared.reader()?.flatten(group.root(), outcome, &mut all)?;
                            for outcome in all {
                                let element = element(&shared, group, outcome, settled);
                                self.ready.push_back((index, element));
                            }
                        }
                    }
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
        let shared = self.handle.shared.clone();
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
                    if let Some((_, size)) = shared.reader()?.expansion(group, &fan)? {
                        return Ok(Some(Some(size)));
                    }
                    Ok(self.handle.resolution()?.map(|_| None))
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
            settled: fan.settled,
            seen: HashSet::new(),
            after: None,
        };
        Ok(())
    }

    async fn whole_list(&mut self) -> Result<()> {
        self.source = Source::Exhausted;
        match self.handle.wait(Wait::Open).await? {
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
            Outcome::Success(value) => {
                let id = self.handle.id;
                let elements = self.handle.shared.load(id.root(), value).await?.elements();
                let elements = elements.map_err(|what| Error::Decode { id, what })?;
                self.ready = (0..).zip(elements.into_iter().map(Ok)).collect();
                Ok(())
            }
        }
    }
}

/// Returns a member's outcome as an element of its group's list.
fn element(shared: &Shared, group: Id, outcome: Outcome, settled: bool) -> Element {
    match outcome {
        Outcome::Failure(failure) | Outcome::Revoked(failure) if !settled => {
            Err(Error::Failed(failure))
        }
        outcome => Ok(shared.reader()?.element(group.root(), &outcome, settled)?),
    }
}
