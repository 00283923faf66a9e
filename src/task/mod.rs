//! The tasks that a user writes, their context and their errors.

mod arguments;
mod boxed;
mod context;
mod error;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod expansion;
mod fold;
mod limit;
mod options;
mod results;
mod retry;
mod returned;

use std::any::TypeId;
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::iter::Peekable;
use std::marker::PhantomData;
use std::pin::Pin;

use serde::Serialize;

use self::arguments::{Stored, StoredArgs, Unreadable};
pub use self::arguments::{TaskArg, TaskArgs, TaskOutput};
pub(crate) use self::context::Host;
pub use self::context::TaskContext;
pub(crate) use self::error::Next;
pub use self::error::{IntoTaskError, TaskError};
pub(crate) use self::limit::PayloadLimit;
pub use self::options::{DEFAULT_QUEUE, TaskOptions};
pub use self::results::Results;
pub use self::retry::Retry;
pub use self::returned::{Replaced, TaskResult};
use crate::canvas::binding;
use crate::canvas::freeze::{Catalogue, SizeExceeded, TaskDef, over_long};
use crate::canvas::options::{Options, TimeLimits};
use crate::canvas::parameter::{Parameter, complete, usage};
use crate::canvas::parked::{Misfit, NOT_REGISTERED};
use crate::canvas::payload::{ListWriter, Parts, Payload, not_readable};
use crate::canvas::{Canvas, Form, Immutable, Mode, Origin, Signature, TaskSig, arguments};
use crate::error::{Error, Result};

/// A function that can be run by name; [`#[task]`](crate::task) implements it for a function.
///
/// Implement it by hand where the attribute cannot be used:
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
    type Args: TaskArgs;
    /// The type of the task's value.
    type Output: TaskOutput;

    /// The name under which it is registered. Stored work refers to the task by this name: keep it
    /// when the function moves.
    const NAME: &'static str;
    /// The parameters, in the order of [`Args`](Self::Args): required ones, then those with a
    /// default, then at most one rest parameter.
    const PARAMS: &'static [Parameter];
    /// The queue, the retries and the limits.
    const OPTIONS: TaskOptions = TaskOptions::new();

    /// Runs the function once. A blocking task's future runs on its own thread.
    fn run(
        context: TaskContext,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}

/// A call of a task's function.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<Payload, TaskError>> + Send>>;

/// A registered task: its name and its function. Created by [`tasks!`](crate::tasks!).
#[derive(Clone, Copy)]
pub struct TaskEntry(&'static Entry);

/// The data of a registered task; every attempt refers to it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) parameters: &'static [Parameter],
    pub(crate) options: TaskOptions,
    task: TypeId,
    /// The path of its type.
    path: fn() -> &'static str,
    call: fn(TaskContext, Parts) -> Call,
}

/// Holds the entry of task `T`.
struct Of<T>(PhantomData<T>);

impl<T: Task> Of<T> {
    const ENTRY: Entry = Entry {
        name: T::NAME,
        parameters: T::PARAMS,
        options: T::OPTIONS,
        task: TypeId::of::<T>(),
        path: std::any::type_name::<T>,
        call: |context, args| Box::pin(call::<T>(context, args)),
    };
}

impl TaskEntry {
    /// Returns the entry of task `T`.
    #[must_use]
    pub fn of<T: Task>() -> Self {
        Self(&Of::<T>::ENTRY)
    }

    /// Returns the entry of `task`; [`tasks!`](crate::tasks!) calls it with a task's name, which is
    /// a value.
    #[must_use]
    pub fn of_task<T: Task>(_task: T) -> Self {
        Self::of::<T>()
    }
}

impl Entry {
    /// Returns the priority of a task with these signature options.
    pub(crate) fn priority(&self, own: Option<&Options>) -> u8 {
        let own = own.and_then(|own| own.priority);
        own.unwrap_or(self.options.priority)
    }

    /// Returns whether its first argument reads an upstream list as it goes.
    pub(crate) fn streams(&self) -> bool {
        self.parameters.first().is_some_and(Parameter::is_streamed)
    }

    /// Calls the function with an encoded list of arguments.
    pub(crate) fn call(&self, context: TaskContext, args: Parts) -> Call {
        (self.call)(context, args)
    }
}

async fn call<T: Task>(context: TaskContext, args: Parts) -> Result<Payload, TaskError> {
    let args = decode_args::<T>(args)?;
    let value = T::run(context, args).await?;
    value
        .encode()
        .map(|Stored(value)| value)
        .map_err(|error| TaskError::wrong_type(format!("the result cannot be stored: {error}")))
}

/// Decodes the arguments; an error names the parameter.
fn decode_args<T: Task>(args: Parts) -> Result<T::Args, TaskError> {
    let unfit = |error: &str, misfit| {
        let message = format!("arguments do not fit ({}): {error}", usage(T::PARAMS));
        TaskError::unfit(message, misfit)
    };
    // A task without parameters takes `()`, which MessagePack writes as nil.
    if T::PARAMS.is_empty() {
        return match args.len() {
            Ok(0) => Payload::encode(&()).and_then(|nil| {
                let nil = T::Args::decode(StoredArgs(nil.into()));
                nil.map_err(|unreadable| unreadable.error)
            }),
            Ok(given) => Err(format!("it takes none, and gets {given}")),
            Err(error) => Err(error),
        }
        .map_err(|error| unfit(&error, Misfit::Stored));
    }
    let args = complete(T::PARAMS, args).map_err(|error| unfit(&error, Misfit::Stored))?;
    T::Args::decode(StoredArgs(args)).map_err(|Unreadable { error, args }| {
        let misfit = args.map_or(Misfit::First, |args| misfit(T::PARAMS, &args));
        unfit(&error, misfit)
    })
}

/// Returns which of these arguments, one for each parameter, do not fit.
fn misfit(parameters: &[Parameter], args: &Payload) -> Misfit {
    let fits =
        |(parameter, argument): (&Parameter, &Payload)| parameter.check_all(argument).is_ok();
    let args = args.elements().unwrap_or_default();
    let is_first = args.len() == parameters.len()
        && parameters.iter().zip(&args).skip(1).all(fits)
        && !parameters.iter().zip(&args).take(1).all(fits);
    match is_first {
        true => Misfit::First,
        false => Misfit::Stored,
    }
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

/// Lists tasks for [`AppBuilder::tasks`](crate::AppBuilder::tasks) by their names; a task that is
/// implemented by hand is listed as a value.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
/// let builder = App::in_memory().tasks(tasks![add, xsum]);
/// ```
#[macro_export]
macro_rules! tasks {
    ($($task:expr),* $(,)?) => {
        [$($crate::TaskEntry::of_task($task)),*]
    };
}

/// All tasks of an app, by name, and the limit on their payloads.
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
            refuse_over_long("task", entry.name, "")?;
            refuse_over_long("queue", entry.options.queue, entry.name)?;
            match tasks.entry(entry.name) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                // Listing one task twice is no mistake.
                hash_map::Entry::Occupied(existing) if existing.get().task == entry.task => {}
                hash_map::Entry::Occupied(existing) => {
                    return Err(Error::DuplicateTask {
                        name: entry.name.to_owned(),
                        first: (existing.get().path)(),
                        second: (entry.path)(),
                    });
                }
            }
        }
        Ok(Self { tasks, payloads })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'static Entry> {
        self.tasks.get(name).copied()
    }

    /// Returns why this task cannot be called with its stored arguments, if it cannot.
    pub(crate) fn misfit(&self, task: &TaskDef) -> Option<String> {
        let Some(entry) = self.get(&task.name) else {
            return Some(NOT_REGISTERED.to_owned());
        };
        binding::check_stored(task, entry.parameters).err()
    }

    /// Checks that `part` of task `name` may take this many bytes.
    pub(crate) fn check(
        &self,
        name: &str,
        part: &'static str,
        bytes: usize,
    ) -> Result<(), SizeExceeded> {
        self.payloads.check(name, part, bytes)
    }
}

/// Refuses a name that is too long. `of`: `queue` or `task`. `task`: the task that is registered
/// with a queue's name.
pub(crate) fn refuse_over_long(of: &'static str, name: &str, task: &str) -> Result<()> {
    let Some(SizeExceeded { bytes, limit }) = over_long(name) else {
        return Ok(());
    };
    Err(Error::NameTooLong {
        of,
        path: task.to_owned(),
        bytes,
        limit,
    })
}

impl Catalogue for Registry {
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]> {
        self.get(name).map(|entry| entry.parameters)
    }

    fn admit(&self, name: &str, bytes: usize) -> Result<(), SizeExceeded> {
        self.check(name, "arguments", bytes)
    }

    fn limits(&self, name: &str) -> TimeLimits {
        self.get(name)
            .map_or_else(TimeLimits::default, |entry| entry.options.limits())
    }
}

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
        settled: false,
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
