//! A list that a task reads from the store as it goes.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TaskContext;
use crate::backend::durable_view::DurableView;
use crate::canvas::payload::Payload;
use crate::error::{Error, GetError, Result};
use crate::persistence::records::reader::{Elements, ElementsError};

/// The results of a group, in member order, read from the store as a task asks for them. A chord's
/// body takes it as its first parameter instead of a `Vec<T>`, and then needs memory for only four
/// bytes per member and about a thousand values at a time, however many members there are.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn square(n: i64) -> i64 { n * n }
/// #[task(blocking)]
/// fn total(all: Results<i64>) -> Result<i64, TaskError> {
///     let mut sum = 0;
///     for n in all {
///         sum += n?;
///     }
///     Ok(sum)
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![square, total]).start().await?;
/// let sum = app.apply_async(group((0..5_000).map(|n| square.s(n))) | total.partial()).await?;
/// assert_eq!(sum.get().await?, (0..5_000).map(|n| n * n).sum::<i64>());
/// # app.shutdown().await }
/// ```
///
/// To the compiler the task takes a `Vec<T>`: `total.partial()` can be used like any task with that
/// parameter, also after a task that returns a list, and `total.s(vec![1, 2])` gives the list
/// directly, which is then in memory like any argument. After a
/// [`settled`](crate::Signature::settled) group the type is `Results<Result<T, TaskFailure>>`. As
/// any parameter but the first it is a list in memory. The attribute recognizes the type by its
/// name: write `Results<T>`, or a path that ends with it.
///
/// Reading blocks, so such a task should be `blocking`. An async task may read as well: the disk is
/// read once per thousand members, which takes some milliseconds, and the locations of the results
/// are looked up before the function is called, on another thread.
///
/// # Errors
///
/// An item is an error if the store cannot be read ([`Error::Store`], [`Error::ShutDown`]), and
/// then all later items are errors too; or [`GetError::Decode`] if it is not a `T`. No item is left
/// out, and `len` returns how many items are left.
pub struct Results<T>(Source<T>);

enum Source<T> {
    /// All values are in memory.
    Values(std::vec::IntoIter<T>),
    Stored(Stored),
}

#[derive(Clone)]
struct Stored {
    view: Arc<DurableView>,
    elements: Elements,
    left: usize,
    /// The error after which no more elements are read.
    broken: Option<Error>,
}

impl<T> Results<T> {
    /// Returns the first argument of a task within this attempt, for tasks written by hand whose
    /// first parameter is [`streamed`](crate::Parameter::streamed). [`#[task]`](macro@crate::task)
    /// calls it before the function.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{Parameter, Task};
    ///
    /// struct Count;
    ///
    /// impl Task for Count {
    ///     type Args = (Results<i64>,);
    ///     type Output = usize;
    ///     const NAME: &'static str = "count";
    ///     const PARAMS: &'static [Parameter] =
    ///         &[Parameter::required::<Results<i64>>("all").streamed()];
    ///
    ///     async fn run(context: TaskContext, (all,): Self::Args) -> Result<usize, TaskError> {
    ///         Ok(all.within(&context).len())
    ///     }
    /// }
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double, Count]).start().await?;
    /// let count = Signature::<Vec<i64>, usize>::partial::<Count>(());
    /// let count = app.apply_async(group([1, 2, 3].map(|n| double.s(n))) | count).await?;
    /// assert_eq!(count.get().await?, 3);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn within(self, context: &TaskContext) -> Self {
        let (Some(upstream), Some(host)) = (&context.upstream, &context.host) else {
            return self;
        };
        Self(Source::Stored(Stored {
            view: host.view().clone(),
            left: upstream.len() as usize,
            elements: Elements::clone(upstream),
            broken: None,
        }))
    }

    fn left(&self) -> usize {
        match &self.0 {
            Source::Values(values) => values.len(),
            Source::Stored(stored) => stored.left,
        }
    }
}

impl Stored {
    fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T>> {
        self.left = self.left.checked_sub(1)?;
        if let Some(error) = &self.broken {
            return Some(Err(error.clone()));
        }
        let payload = match self.read() {
            Ok(payload) => payload,
            Err(error) => {
                self.broken = Some(error.clone());
                return Some(Err(error));
            }
        };
        let id = self.elements.id();
        Some(
            payload
                .decode()
                .map_err(|what| Error::Get(GetError::Decode { id, what })),
        )
    }

    fn read(&mut self) -> Result<Payload> {
        // Requested each time, because the store closes even if a task keeps this.
        let reader = self.view.reader()?;
        let id = self.elements.id();
        match self.elements.next(&reader) {
            Some(Ok(payload)) => Ok(payload),
            Some(Err(ElementsError::Store(error))) => Err(error.into()),
            Some(Err(ElementsError::Unusable(what))) => {
                Err(Error::Get(GetError::Decode { id, what }))
            }
            None => Err(Error::Get(GetError::Decode {
                id,
                what: "the list ends too early".to_owned(),
            })),
        }
    }
}

impl<T: DeserializeOwned> Iterator for Results<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        match &mut self.0 {
            Source::Values(values) => values.next().map(Ok),
            Source::Stored(stored) => stored.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left(), Some(self.left()))
    }
}

impl<T: DeserializeOwned> ExactSizeIterator for Results<T> {}

impl<T: DeserializeOwned> FusedIterator for Results<T> {}

/// For calling a task's function directly: `total.call(vec![1, 2].into())`.
impl<T> From<Vec<T>> for Results<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Source::Values(values.into_iter()))
    }
}

impl<T> Default for Results<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

/// Serializes the remaining items as a list.
impl<T: Serialize + DeserializeOwned> Serialize for Results<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.left()))?;
        match &self.0 {
            Source::Values(values) => {
                for value in values.as_slice() {
                    list.serialize_element(value)?;
                }
            }
            Source::Stored(stored) => {
                let mut stored = stored.clone();
                while let Some(value) = stored.next::<T>() {
                    list.serialize_element(&value.map_err(S::Error::custom)?)?;
                }
            }
        }
        list.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Results<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

/// Shows the number of remaining items, never the values.
impl<T> fmt::Debug for Results<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}
