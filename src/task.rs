//! What a user writes: tasks, their context, their errors.

mod context;
mod error;
mod fold;
mod limit;
mod options;
mod results;
mod retry;

use std::any::TypeId;
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::iter::Peekable;
use std::marker::PhantomData;
use std::pin::Pin;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::context::Host;
pub use self::context::TaskContext;
pub(crate) use self::error::Next;
pub use self::error::TaskError;
pub(crate) use self::limit::PayloadLimit;
pub use self::options::{DEFAULT_QUEUE, TaskOptions};
pub use self::results::Results;
pub use self::retry::Retry;
use crate::canvas::freeze::{Catalogue, Excess};
use crate::canvas::options::{Options, TimeLimits};
use crate::canvas::parameter::{Parameter, complete, usage};
use crate::canvas::payload::{ListWriter, Parts, Payload};
use crate::canvas::{Canvas, Form, Immutable, Mode, Origin, Signature, TaskSig, arguments};
use crate::error::{Error, Result};

/// A function that can be run by name: what [`#[task]`](crate::task) makes of a function.
///
/// Implement it by hand where the attribute cannot reach:
///
/// ```
/// # use chordal::{Parameter, Task, TaskContext, TaskError, Signature};
/// struct Double;
///
/// impl Task for Double {
///     type Args = (i64,);
///     type Output = i64;
///     const NAME: &'static str = "double";
///     const PARAMS: &'static [Parameter] = &[Parameter::required::<i64>("n")];
///
///     async fn run(_: TaskContext, (n,): (i64,)) -> Result<i64, TaskError> {
///         Ok(2 * n)
///     }
/// }
///
/// let eight = Signature::full::<Double>((4,));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    label = "not a task",
    note = "write `#[task]` on the function that it names"
)]
pub trait Task: Send + Sync + 'static {
    /// The parameters, as a tuple.
    type Args: Serialize + DeserializeOwned + Send + 'static;
    /// What it gives.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The name it is registered under. What is stored names the task by it: keep it when the
    /// function moves.
    const NAME: &'static str;
    /// The parameters, in the order of [`Args`](Self::Args): required ones, then those with a
    /// default, then at most one that takes the rest.
    const PARAMS: &'static [Parameter];
    /// Where and how it runs.
    const OPTIONS: TaskOptions = TaskOptions::new();

    /// Runs it once. A blocking task's future runs on a thread of its own.
    fn run(
        context: TaskContext,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}

/// The `Result` that a task function may return, whatever alias it is written with.
pub trait TaskResult {
    /// What the task gives when it succeeds.
    type Value;

    /// Turns any error into a [`TaskError`].
    ///
    /// # Errors
    ///
    /// The task's own.
    fn into_task_result(self) -> Result<Self::Value, TaskError>;
}

impl<T, E: Into<TaskError>> TaskResult for Result<T, E> {
    type Value = T;

    fn into_task_result(self) -> Result<T, TaskError> {
        self.map_err(Into::into)
    }
}

/// A call of a task's function.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Payload, TaskError>> + Send>>;

/// One task as registered: its name, and how it is called. Made by [`tasks!`](crate::tasks!).
#[derive(Clone, Copy)]
pub struct TaskEntry(&'static Entry);

/// What there is to know of a registered task; every attempt refers to it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) options: TaskOptions,
    task: TypeId,
    call: fn(TaskContext, Parts) -> Call,
}

/// Has the entry of task `T`.
struct Of<T>(PhantomData<T>);

impl<T: Task> Of<T> {
    const ENTRY: Entry = Entry {
        name: T::NAME,
        parameters: T::PARAMS,
        options: T::OPTIONS,
        task: TypeId::of::<T>(),
        call: |context, args| Box::pin(call::<T>(context, args)),
    };
}

impl TaskEntry {
    /// The entry of task `T`.
    #[must_use]
    pub fn of<T: Task>() -> Self {
        Self(&Of::<T>::ENTRY)
    }
}

impl Entry {
    /// The priority of a task with these options of its own.
    pub(crate) fn priority(&self, own: Option<&Options>) -> u8 {
        let own = own.and_then(|own| own.priority);
        own.unwrap_or(self.options.priority)
    }

    /// Its first argument reads a list from upstream as it goes.
    pub(crate) fn streams(&self) -> bool {
        self.parameters.first().is_some_and(Parameter::is_streamed)
    }

    /// Calls the function with an encoded list of arguments.
    pub(crate) fn call(&self, context: TaskContext, args: Parts) -> Call {
        (self.call)(context, args)
    }
}

async fn call<T: Task>(context: TaskContext, args: Parts) -> Result<Payload, TaskError> {
    let args = decode_args::<T>(args).map_err(TaskError::wrong_type)?;
    let value = T::run(context, args).await?;
    Payload::encode(&value)
        .map_err(|error| TaskError::wrong_type(format!("the result cannot be stored: {error}")))
}

/// Decodes the arguments; an error names the parameter.
fn decode_args<T: Task>(args: Parts) -> Result<T::Args, String> {
    // A task without parameters takes `()`, which MessagePack writes as nil.
    if T::PARAMS.is_empty() {
        return Payload::encode(&()).and_then(|nil| nil.decode());
    }
    complete(T::PARAMS, args)
        .and_then(Parts::decode)
        .map_err(|error| format!("arguments do not fit ({}): {error}", usage(T::PARAMS)))
}

impl fmt::Debug for TaskEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskEntry")
            .field("name", &self.name)
            .field("parameters", &self.parameters)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Lists tasks for [`AppBuilder::tasks`](crate::AppBuilder::tasks).
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
/// let builder = App::in_memory().tasks(tasks![add, xsum]);
/// ```
#[macro_export]
macro_rules! tasks {
    ($($task:ty),* $(,)?) => {
        [$($crate::TaskEntry::of::<$task>()),*]
    };
}

/// All tasks of an app, by name, and what goes in and out of them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    tasks: HashMap<&'static str, &'static Entry>,
    payloads: PayloadLimit,
}

impl Registry {
    pub(crate) fn new(
        entries: impl IntoIterator<Item = TaskEntry>,
        payloads: PayloadLimit,
    ) -> Result<Self> {
        let mut tasks = HashMap::new();
        for TaskEntry(entry) in entries {
            if let Err(reason) = entry.options.limits().check() {
                return Err(Error::InvalidTask {
                    name: entry.name.to_owned(),
                    reason,
                });
            }
            match tasks.entry(entry.name) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                // Listing one task twice is no mistake.
                hash_map::Entry::Occupied(taken) if taken.get().task == entry.task => {}
                hash_map::Entry::Occupied(_) => {
                    return Err(Error::DuplicateTask {
                        name: entry.name.to_owned(),
                    });
                }
            }
        }
        Ok(Self { tasks, payloads })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'static Entry> {
        self.tasks.get(name).copied()
    }

    /// Says whether so many bytes may be `what` of task `name`.
    pub(crate) fn check(&self, name: &str, what: &'static str, bytes: usize) -> Result<(), Excess> {
        self.payloads.check(name, what, bytes)
    }
}

impl Catalogue for Registry {
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]> {
        self.get(name).map(|entry| entry.parameters)
    }

    fn admit(&self, name: &str, bytes: usize) -> Result<(), Excess> {
        self.check(name, "arguments", bytes)
    }

    fn limits(&self, name: &str) -> TimeLimits {
        self.get(name)
            .map_or_else(TimeLimits::default, |entry| entry.options.limits())
    }
}

/// The constructors behind `.s(…)`, `.partial(…)` and their kin.
impl<O> Signature<(), O> {
    /// Task `T` with all its arguments.
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
        Self::from_canvas(canvas::<T>(&args, false))
    }
}

impl<I, O> Signature<I, O> {
    /// Task `T` with all arguments but the first, `rest`, a tuple.
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
        Self::from_canvas(canvas::<T>(&rest, true))
    }
}

impl<I, O> Signature<Vec<I>, Vec<O>> {
    /// Task `T` once per element of the list upstream, in parallel; `rest` are all arguments but
    /// the first, a tuple.
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
        Self::from_canvas(Canvas::nested(Form::Each {
            member: Box::new(canvas::<T>(&rest, true)),
            settled: false,
        }))
    }
}

impl<O> Immutable<O> {
    /// Task `T` with all its arguments, whatever comes from upstream.
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
        Self::from_canvas(canvas::<T>(&args, false))
    }
}

impl<O> Immutable<Vec<O>> {
    /// One task that calls `T` once per item, in order (celery/app/builtins.py, `celery.map`):
    /// the first failing item fails it, the ones behind it are not called.
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

    /// The same as [`map`](Self::map): the items are lists of arguments in both.
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
    /// A group of maps over at most `n` items each (celery/canvas.py, `chunks`). The items are drawn
    /// as those of a [`group`](crate::group()) are: one chunk is in memory at a time.
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

/// Lists of at most `n` items each.
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

fn canvas<T: Task>(args: &impl Serialize, takes_upstream: bool) -> Canvas {
    match stored::<T>(args) {
        Ok((args, count)) => sig::<T>(args, count, Mode::Once, takes_upstream),
        Err(error) => Canvas::refused(format!("arguments of `{}`: {error}", T::NAME)),
    }
}

/// The arguments as they are stored: those of a rest parameter, always the last, like the others.
fn stored<T: Task>(args: &impl Serialize) -> Result<(Payload, u32), String> {
    let (args, count) = arguments(&Payload::encode(args)?)?;
    match T::PARAMS.last() {
        Some(last) if last.is_rest() => args.spread_last(count),
        _ => Ok((args, count)),
    }
}

fn map<T: Task>(items: impl IntoIterator<Item = T::Args>) -> Canvas {
    let mut all = Vec::new();
    let mut count = 0;
    for item in items {
        match stored::<T>(&item) {
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
