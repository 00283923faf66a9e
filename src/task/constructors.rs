//! The signatures of a task: what `.s(…)`, `.partial(…)` and the other methods of a task create.

use std::iter::Peekable;

use serde::Serialize;

use super::Task;
use super::arguments::{Stored, TaskArgs};
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::payload::{ListWriter, Payload, not_readable};
use crate::canvas::{Canvas, Form, Immutable, Mode, Origin, Signature, TaskSig, arguments};

/// The constructors behind `.s(…)`, `.partial(…)` and similar methods.
impl<O> Signature<(), O> {
    /// Creates a signature of task `T` with all its arguments.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let four = Signature::full::<add>((2, 2)); // add.s(2, 2)
    /// assert_eq!(app.apply_async(four).await?.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    pub fn full<T: Task<Output = O>>(args: T::Args) -> Self {
        Self::from_canvas(canvas::<T>(encoded::<T>(&args), false))
    }
}

impl<I, O> Signature<I, O> {
    /// Creates a signature of task `T` with all arguments but the first; `rest` is a tuple.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let next: Signature<i64, i64> = Signature::partial::<add>((4,)); // add.partial(4)
    /// assert_eq!(app.apply_async(add.s(2, 2) | next).await?.get().await?, 8);
    /// # app.shutdown().await }
    /// ```
    pub fn partial<T: Task<Output = O>>(rest: impl Serialize) -> Self {
        Self::from_canvas(canvas::<T>(encoded_rest::<T>(&rest), true))
    }

    /// As [`partial`](Self::partial), for the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn partial_of<T: Task<Output = O>>(rest: Result<Stored, String>) -> Self {
        Self::from_canvas(canvas::<T>(rest.map(|Stored(rest)| rest), true))
    }
}

impl<I, O> Signature<Vec<I>, Vec<O>> {
    /// Creates a signature that runs task `T` once per element of the upstream list, in parallel;
    /// `rest` is a tuple of all arguments but the first.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[task] async fn range(n: i64) -> Vec<i64> { (0..n).collect() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![range, add]).start().await?;
    /// let next: Signature<Vec<i64>, Vec<i64>> = Signature::each::<add>((1,)); // add.each(1)
    /// assert_eq!(app.apply_async(range.s(3) | next).await?.get().await?, [1, 2, 3]);
    /// # app.shutdown().await }
    /// ```
    pub fn each<T: Task<Output = O>>(rest: impl Serialize) -> Self {
        Self::from_canvas(each(canvas::<T>(encoded_rest::<T>(&rest), true)))
    }

    /// As [`each`](Self::each), for the code that `#[task]` generates.
    #[doc(hidden)]
    pub fn each_of<T: Task<Output = O>>(rest: Result<Stored, String>) -> Self {
        Self::from_canvas(each(canvas::<T>(rest.map(|Stored(rest)| rest), true)))
    }
}

impl<O> Immutable<O> {
    /// Creates a signature of task `T` with all its arguments, which ignores the upstream value.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let five = Immutable::of::<add>((2, 3)); // add.si(2, 3)
    /// assert_eq!(app.apply_async(add.s(1, 1) | five).await?.get().await?, 5);
    /// # app.shutdown().await }
    /// ```
    pub fn of<T: Task<Output = O>>(args: T::Args) -> Self {
        Self::from_canvas(canvas::<T>(encoded::<T>(&args), false))
    }
}

impl<O> Immutable<Vec<O>> {
    /// Creates one task that calls `T` once per item, in order (celery/app/builtins.py,
    /// `celery.map`). The first failing item fails the task; later items are not called.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double]).start().await?;
    /// assert_eq!(app.apply_async(double.map([1, 2, 3])).await?.get().await?, [2, 4, 6]);
    /// # app.shutdown().await }
    /// ```
    pub fn map<T: Task<Output = O>>(items: impl IntoIterator<Item = T::Args>) -> Self {
        Self::from_canvas(map::<T>(items))
    }

    /// Same as [`map`](Self::map): the items are lists of arguments in both.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// assert_eq!(app.apply_async(add.starmap([(1, 1), (2, 2)])).await?.get().await?, [2, 4]);
    /// # app.shutdown().await }
    /// ```
    pub fn starmap<T: Task<Output = O>>(items: impl IntoIterator<Item = T::Args>) -> Self {
        Self::map::<T>(items)
    }
}

impl<O> Immutable<Vec<Vec<O>>> {
    /// Creates a group of maps over at most `n` items each (celery/canvas.py, `chunks`). The items
    /// are drawn like the members of a [`group`](crate::group()): one chunk is in memory at a time.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double]).start().await?;
    /// let items = (1..=3).map(|n| (n,)); // tuples of arguments, as for `starmap`
    /// let chunks = app.apply_async(double.chunks(items, 2)).await?;
    /// assert_eq!(chunks.get().await?, [vec![2, 4], vec![6]]);
    /// # app.shutdown().await }
    /// ```
    pub fn chunks<T: Task<Output = O>>(
        items: impl IntoIterator<Item = T::Args, IntoIter: Send + 'static>,
        n: usize,
    ) -> Self {
        if n == 0 {
            return Self::from_canvas(Canvas::refused(format!(
                "chunks of `{}` must have at least one item",
                T::NAME
            )));
        }
        let items = items.into_iter().peekable();
        Self::from_canvas(Canvas::group(Chunks { items, n }.map(map::<T>)))
    }
}

/// An iterator over lists of at most `n` items each.
struct Chunks<I: Iterator> {
    items: Peekable<I>,
    n: usize,
}

impl<I: Iterator> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Vec<I::Item>> {
        self.items.peek()?;
        Some(self.items.by_ref().take(self.n).collect())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.items.size_hint();
        let chunks = |items: usize| items.div_ceil(self.n);
        (chunks(least), most.map(chunks))
    }
}

fn each(member: Canvas) -> Canvas {
    Canvas::nested(Form::Each {
        member: Box::new(member),
        policy: GroupPolicy::All,
    })
}

fn canvas<T: Task>(args: Result<Payload, String>, takes_upstream: bool) -> Canvas {
    match args.and_then(|args| stored::<T>(&args)) {
        Ok((args, count)) => sig::<T>(args, count, Mode::Once, takes_upstream),
        Err(error) => Canvas::refused(format!("arguments of `{}`: {error}", T::NAME)),
    }
}

fn encoded<T: Task>(args: &T::Args) -> Result<Payload, String> {
    args.encode().map(|Stored(args)| args)
}

/// Encodes all arguments but the first, whose types the compiler has not checked.
fn encoded_rest<T: Task>(rest: &impl Serialize) -> Result<Payload, String> {
    let (rest, is_wide) = Payload::encode_and_note(rest)?;
    if is_wide {
        let (args, count) = arguments(&rest)?;
        for (parameter, argument) in T::PARAMS.iter().skip(1).zip(&args.split(count)?) {
            parameter.check_all(argument).map_err(not_readable)?;
        }
    }
    Ok(rest)
}

/// Returns the arguments in stored form: those of a rest parameter, which is always the last, are
/// not nested.
fn stored<T: Task>(args: &Payload) -> Result<(Payload, u32), String> {
    let (args, count) = arguments(args)?;
    match T::PARAMS.last() {
        Some(last) if last.is_rest() => args.spread_last(count),
        _ => Ok((args, count)),
    }
}

fn map<T: Task>(items: impl IntoIterator<Item = T::Args>) -> Canvas {
    let mut all = Vec::new();
    let mut count = 0;
    for item in items {
        match encoded::<T>(&item).and_then(|item| stored::<T>(&item)) {
            Ok((args, len)) => {
                let mut item = ListWriter::new(len as usize, args.bytes().len());
                item.push(args.bytes());
                all.extend_from_slice(item.finish().bytes());
            }
            Err(error) => {
                return Canvas::refused(format!("item {count} of a map of `{}`: {error}", T::NAME));
            }
        }
        count += 1;
    }
    sig::<T>(Payload::from(all), count, Mode::Map, false)
}

fn sig<T: Task>(args: Payload, count: u32, mode: Mode, takes_upstream: bool) -> Canvas {
    Canvas::from_form(Form::Task(TaskSig {
        name: T::NAME.into(),
        args,
        count,
        mode,
        takes_upstream,
        origin: Origin::Typed,
    }))
}
