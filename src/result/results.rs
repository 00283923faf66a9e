//! The results of a group's members that exist now.

use serde::de::DeserializeOwned;

use super::{AsyncResult, decode_element};
use crate::canvas::id::Id;
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::canvas::payload::Payload;
use crate::error::{Error, GetError, Result};
use crate::persistence::records::reader::{
    Elements, ElementsError, NodeLocation, Reader, Resolution,
};

/// The elements that are there, as they are stored: each a value or a failure.
type Stored = Vec<Option<Result<Payload, Box<TaskFailure>>>>;

impl<T: DeserializeOwned> AsyncResult<Vec<T>> {
    /// Returns the results that exist now, in member order, without waiting: of each member its
    /// value, or its failure, or `None` if it has not ended. After
    /// [`get_timeout`](Self::get_timeout) they are what could be had in the time.
    ///
    /// It is for every handle whose value is the list of a group, as
    /// [`members`](Self::members) is; for the header of a chord there is
    /// [`header_results`](Self::header_results). Element `i` is what the handle of member `i` has:
    ///
    /// - a member that never ran because a step before the group failed, or because the group was
    ///   revoked, has that failure;
    /// - a member of a [settled](crate::Signature::settled) group that failed has a value, which is
    ///   an `Err`;
    /// - what a member [added](crate::TaskContext::add_to_chord) to its chord is not included (`get`
    ///   includes it), so that the positions are those of the members.
    ///
    /// The list is empty while the number of its elements is unknown: of an
    /// [`each`](crate::Signature::each) before its upstream list is known, and of a list that is a
    /// task's value until the task has ended; then all of it is there.
    ///
    /// The results are read from the store at one point in time, so a result that is there is
    /// durable, and remains the same. All of them are in memory afterwards; for large groups,
    /// [`completions`](Self::completions) gives one after the other.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[task] async fn endless() -> i64 { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse, endless]).start().await?;
    /// let all = group([parse.s("1".into()), parse.s("two".into()), endless.s()]);
    /// let all = app.apply_async(all).await?;
    /// # for member in &all.children::<i64>().await?[..2] { let _ = member.get().await; }
    /// // … time passes …
    /// let results = all.results().await?;
    /// assert_eq!(results[0], Some(Ok(1)));
    /// assert!(matches!(&results[1], Some(Err(failure)) if failure.error_type == "ParseIntError"));
    /// assert_eq!(results[2], None);
    /// # drop(app); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if a step before failed, so that the number of elements will never be
    /// known, or if the list is the value of a task and the task failed; [`GetError::Decode`] if an
    /// element is not a `T`; [`IdError::Unknown`](crate::IdError::Unknown) if its workflow has been
    /// [forgotten](Self::forget); and as [`state`](Self::state).
    pub async fn results(&self) -> Result<Vec<Option<Result<T, TaskFailure>>>> {
        let stored = self
            .read(|target, reader| {
                let root = target.id.root();
                let location = target.find(reader)?;
                if let Some(group) = reader.last_group(root, &location)? {
                    return members_now(reader, &group, root);
                }
                let value = match reader.resolution(root, &location)? {
                    None => return Ok(Vec::new()),
                    Some(Resolution::Never) => {
                        return Err(GetError::NeverRuns { id: target.id }.into());
                    }
                    Some(Resolution::Ended(Outcome::Success(value))) => value,
                    Some(Resolution::Ended(
                        Outcome::Failure(failure) | Outcome::Revoked(failure),
                    )) => return Err(Error::Failed(failure)),
                };
                let not_a_list = |error| match error {
                    ElementsError::Store(error) => error.into(),
                    ElementsError::Unusable(what) => Error::Get(GetError::Decode {
                        id: target.id,
                        what,
                    }),
                };
                let mut list = Elements::open(reader, root, &value).map_err(not_a_list)?;
                let elements = std::iter::from_fn(|| list.next(reader));
                elements
                    .map(|element| Ok(Some(Ok(element.map_err(not_a_list)?))))
                    .collect()
            })
            .await?;
        self.decode_all(stored)
    }
}

impl<O> AsyncResult<O> {
    /// Returns the results of a chord's header that exist now, in member order, without waiting, as
    /// [`results`](AsyncResult::results) does for a group. `T` is the type of the members' values:
    /// the handle of a chord knows the type of its body's value only, so the type is not checked
    /// before an element is decoded.
    ///
    /// It is for every handle whose value is that of a chord or [fold](crate::Signature::fold), so
    /// also for a chain that ends in one. `None` for all others.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[task] async fn sum(all: Vec<i64>) -> i64 { all.iter().sum() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse, sum]).start().await?;
    /// let header = group(["1", "two"].map(|text| parse.s(text.into())));
    /// let total = app.apply_async(chord(header, sum.partial())).await?;
    /// assert!(total.get().await.is_err()); // the body did not run; what it would have been given:
    /// let results = total.header_results::<i64>().await?.expect("it is a chord");
    /// assert_eq!(results[0], Some(Ok(1)));
    /// assert!(matches!(&results[1], Some(Err(_))));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`results`](AsyncResult::results).
    pub async fn header_results<T: DeserializeOwned>(
        &self,
    ) -> Result<Option<Vec<Option<Result<T, TaskFailure>>>>> {
        let stored = self
            .read(|target, reader| {
                let root = target.id.root();
                let chord = reader.last_chord(root, &target.find(reader)?)?;
                chord
                    .map(|chord| members_now(reader, &chord, root))
                    .transpose()
            })
            .await?;
        stored.map(|stored| self.decode_all(stored)).transpose()
    }

    fn decode_all<T: DeserializeOwned>(
        &self,
        stored: Stored,
    ) -> Result<Vec<Option<Result<T, TaskFailure>>>> {
        let decode = |(index, element): (usize, Option<Result<Payload, Box<TaskFailure>>>)| {
            Ok(match element {
                None => None,
                Some(Err(failure)) => Some(Err(*failure)),
                Some(Ok(payload)) => Some(Ok(decode_element(self.id, index as u64, &payload)?)),
            })
        };
        stored.into_iter().enumerate().map(decode).collect()
    }
}

/// Returns what exists of the members of a group, chord or fold.
fn members_now(reader: &Reader, of: &NodeLocation, root: Id) -> Result<Stored> {
    let Some(fan) = of.node.def.header() else {
        return Ok(Vec::new());
    };
    let Some(outcomes) = reader.member_outcomes(root, of, fan)? else {
        return match reader.resolution(root, of)? {
            Some(Resolution::Ended(Outcome::Failure(failure) | Outcome::Revoked(failure))) => {
                Err(Error::Failed(failure))
            }
            _ => Ok(Vec::new()),
        };
    };
    let is_settled = fan.policy.is_settled();
    let element = |outcome| {
        Ok(match outcome {
            None => None,
            Some(Outcome::Failure(failure) | Outcome::Revoked(failure)) if !is_settled => {
                Some(Err(failure))
            }
            Some(outcome) => Some(Ok(reader.element(root, &outcome, is_settled)?)),
        })
    };
    outcomes.into_iter().map(element).collect()
}
