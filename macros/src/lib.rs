//! The `#[task]` attribute of [`chordal`](https://docs.rs/chordal), which re-exports it.
//!
//! `options` reads the list in `#[task(…)]`, and `function` reads the annotated function, with
//! `types` for its types and `parameter` for defaults. `attributes` distributes its other
//! attributes. `expand` generates the task, and `methods` generates the methods of its struct.

use proc_macro::TokenStream;

mod attributes;
mod duration;
mod errors;
mod expand;
mod function;
mod methods;
mod options;
mod parameter;
mod rate;
mod types;

/// Turns a function into a task: a struct of the same name that implements `chordal::Task`, and a
/// static of that type.
///
/// The function is an `async fn`, or a plain `fn` with `blocking`. It may take, in this order, the
/// context (`ctx: &TaskContext`), [application data](#application-data) (`pool: Data<Pool>`), and up
/// to 12 arguments: owned values that serde can store. It returns a value, nothing, or a `Result`.
///
/// ```
/// use chordal::prelude::*;
/// # mod payments {
/// #     pub async fn charge(_: u64, cents: u64) -> std::io::Result<u64> { Ok(cents) }
/// # }
///
/// #[task]
/// async fn add(x: i64, y: i64) -> i64 {
///     x + y
/// }
///
/// #[task(name = "shop.charge", queue = "payments", max_retries = 3, retry_backoff = "1s")]
/// async fn charge(ctx: &TaskContext, order: u64, cents: u64) -> Result<u64, TaskError> {
///     Ok(payments::charge(order, cents).await?)
/// }
///
/// let sum = add.s(2, 2); // Signature<(), i64>
/// ```
///
/// # Methods
///
/// For `async fn add(x: X, y: Y) -> O` the struct has, with the function's own visibility:
///
/// | method | returns | |
/// |---|---|---|
/// | `s(x, y)` | `Signature<(), O>` | all arguments given |
/// | `si(x, y)` | `Immutable<O>` | all arguments given; ignores the upstream value |
/// | `partial(y)` | `Signature<X, O>` | the first argument comes from upstream |
/// | `each(y)` | `Signature<Vec<X>, Vec<O>>` | one task for each element of the upstream list |
/// | `map(items)` | `Immutable<Vec<O>>` | one task with one call per item, which is the argument or a tuple of all |
/// | `starmap(items)` | `Immutable<Vec<O>>` | one call per tuple of arguments |
/// | `chunks(items, n)` | `Immutable<Vec<Vec<O>>>` | the same, `n` calls to a task |
/// | `call(x, y)` | as written | the plain function, without the engine |
///
/// All methods after `si`, except `call`, exist only for tasks with at least one parameter.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn range(n: i64) -> Vec<i64> { (0..n).collect() }
/// # #[task] async fn double(n: i64) -> i64 { 2 * n }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![add, range, double]).start().await?;
/// let canvas = group!(
///     add.s(2, 2) | add.partial(4),
///     add.s(2, 2) | add.si(1, 1),
///     range.s(3) | add.each(1),
///     double.map([1, 2]),
///     add.starmap([(1, 1), (2, 2)]),
///     add.chunks([(1, 1), (2, 2), (3, 3)], 2),
/// );
/// let values = app.apply_async(canvas).await?.get().await?;
/// assert_eq!(values, (8, 2, vec![1, 2, 3], vec![2, 4], vec![2, 4], vec![vec![2, 4], vec![6]]));
/// assert_eq!(add.call(2, 2).await, 4);
/// # app.shutdown().await }
/// ```
///
/// # Parameters
///
/// | attribute | |
/// |---|---|
/// | `#[default]` | may be omitted: the type's `Default` |
/// | `#[default(expr)]` | may be omitted: this value |
/// | `#[rest]` | on the last parameter, a `Vec<T>`: takes any number of arguments |
///
/// A first parameter `Results<T>` is a `Vec<T>` to the methods above; the function reads an
/// upstream list from the store as it goes.
///
/// Parameters with a default follow those without. An argument may be omitted in a canvas that is
/// built at run time, and in calls stored before the parameter was added; the methods above take
/// all arguments. If `#[rest]` is on the only parameter, `partial(args)` takes one `T` from
/// upstream and puts it before `args`.
///
/// ```
/// # use chordal::prelude::*;
/// #[task]
/// async fn join(first: String, #[default(", ".into())] separator: String, #[rest] more: Vec<String>) -> String {
///     more.into_iter().fold(first, |text, next| text + &separator + &next)
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![join]).start().await?;
///
/// let typed = join.s("a".into(), "-".into(), vec!["b".into(), "c".into()]);
/// assert_eq!(app.apply_async(typed).await?.get().await?, "a-b-c");
/// let dynamic = Canvas::task("join", ("a", "-", "b", "c"));
/// assert_eq!(app.apply_async(dynamic).await?.get().await?, "a-b-c");
/// let alone = Canvas::task("join", ("a",));
/// assert_eq!(app.apply_async(alone).await?.get().await?, "a");
/// # app.shutdown().await }
/// ```
///
/// # Application data
///
/// A parameter `Data<T>` before the arguments gets the value of type `T` that the app was given with
/// `AppBuilder::data`. It is no argument: the methods above do not take it, except `call`, and it is
/// neither stored nor named by keyword arguments. An app that has no value of type `T` does not start.
///
/// ```
/// # use chordal::prelude::*;
/// # struct Pool; impl Pool { fn find(&self, user: u64) -> String { format!("user {user}") } }
/// #[task]
/// async fn name_of(pool: Data<Pool>, user: u64) -> String {
///     pool.find(user)
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let pool = Pool;
/// let app = App::in_memory().data(pool).tasks(tasks![name_of]).start().await?;
/// assert_eq!(app.apply_async(name_of.s(7)).await?.get().await?, "user 7");
/// # app.shutdown().await }
/// ```
///
/// The attribute recognizes the type by its name: `Data<T>`, or a path that ends with it. Another
/// type of this name does not compile as a parameter, nor does chordal's under another name. A type
/// `Data` without `<T>` is an argument.
///
/// # Options
///
/// | option | default | |
/// |---|---|---|
/// | `name = "shop.charge"` | the function's name | the name under which it is registered and stored |
/// | `queue = "payments"` | `"default"` | the queue in which it waits for a slot |
/// | `priority = 5` | 0 | 0 to 9; among the tasks that wait in one queue the highest starts first, and one that waits longest is passed over 31 times at most |
/// | `max_retries = 3` | 0 | how often a failed attempt is retried; without it the five options below have no effect |
/// | `retry_backoff = "5s"` | `"1s"` | the first delay; each further one doubles |
/// | `retry_backoff_max = "2m"` | `"10m"` | the maximum of the doubling delay |
/// | `retry_jitter = true` | `false` | draws each delay at random between zero and its full length |
/// | `default_retry_delay = "3m"` | none | a constant delay, unless there is a `retry_backoff` |
/// | `retry_if = \|error\| …` | all | which errors (`&TaskError`) are retried |
/// | `soft_time_limit = "30s"` | none | when the task is notified, or ended if it does not listen |
/// | `time_limit = "45s"` | none | how long one attempt may take |
/// | `rate_limit = "10/m"` | none | how many attempts may start in a period, in the whole app; `"100/15s"` for a period of several units |
/// | `burst = 5` | 1 | how many of these may start at once, instead of evenly spread |
/// | `limit_by = "tenant"` | none | the parameter that divides the rate: each value of it has the whole rate |
/// | `limit = "stripe"` | none | the name of a limit that the task shares, set with `AppBuilder::limit` or `AppBuilder::limit_concurrency` |
/// | `concurrency = 4` | none | how many attempts run at once, in the whole app |
/// | `concurrency_by = "tenant"` | none | the parameter that divides the concurrency |
/// | `breaker = "stripe"` | none | the circuit breaker that the task is under, set with `AppBuilder::breaker` |
/// | `on_open = "fail"` | `"wait"` | what the task does while the breaker is open: it fails at once, or waits without a slot |
/// | `breaker_if = \|error\| …` | all | which errors (`&TaskError`) count for the breaker |
/// | `blocking` | no | a plain `fn`, run on the blocking pool |
///
/// A duration is a number and a unit (`ms`, `s`, `m`, `h`, `d`), or several from large to small:
/// `"1m30s"`, `"1.5s"`.
///
/// ```
/// # use chordal::prelude::*;
/// // Delays of up to one, two, four and eight seconds, at random; only for errors that may pass.
/// #[task(
///     max_retries = 4,
///     retry_backoff = "1s",
///     retry_backoff_max = "8s",
///     retry_jitter = true,
///     retry_if = |error| error.error_type() == "Busy"
/// )]
/// async fn book(seat: u32) -> Result<u32, TaskError> {
///     if seat > 9 {
///         return Err(TaskError::new("no such seat").with_type("Unknown")); // not tried again
///     }
///     Ok(seat)
/// }
///
/// // A retry every minute; an attempt is notified after 30 s and ended after 40 s.
/// #[task(queue = "index", priority = 2, max_retries = 3, default_retry_delay = "1m", soft_time_limit = "30s", time_limit = "40s")]
/// async fn index(ctx: &TaskContext, page: u32) -> Result<u32, TaskError> {
///     tokio::select! {
///         () = std::future::ready(()) => Ok(page),
///         () = ctx.soft_time_limit() => Err(TaskError::new("cut short")),
///     }
/// }
///
/// // Runs on its own thread.
/// #[task(blocking, name = "shop.checksum")]
/// fn checksum(text: String) -> u32 {
///     text.bytes().map(u32::from).sum()
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![book, index, checksum]).start().await?;
///
/// assert!(app.apply_async(book.s(10)).await?.get().await.is_err());
/// assert_eq!(app.apply_async(group!(book.s(9), index.s(1), checksum.s("ab".into()))).await?.get().await?, (9, 1, 195));
/// # app.shutdown().await }
/// ```
///
/// # Errors
///
/// The error of a returned `Result` is a `TaskError`, any `std::error::Error`, a text (`String`,
/// `&'static str`), or a boxed error (`Box<dyn Error>`, `anyhow::Error`, `eyre::Report`). If it is
/// a `TaskError`, `?` converts any `std::error::Error`; a text is converted with
/// `.map_err(TaskError::new)?`, a boxed error with `.map_err(TaskError::from_boxed)?`. A task that
/// can be replaced returns a `Result` with a `TaskError` or a `Box<dyn Error>`.
///
/// ```
/// # use chordal::prelude::*;
/// #[task]
/// async fn parse(text: String) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
///     if text.is_empty() {
///         return Err("nothing to parse".into());
///     }
///     Ok(text.parse()?)
/// }
///
/// #[task]
/// async fn sum(texts: Vec<String>) -> Result<i64, TaskError> {
///     let mut all = 0;
///     for text in texts {
///         all += parse.call(text).await.map_err(TaskError::from_boxed)?;
///     }
///     Ok(all)
/// }
/// ```
///
/// The attribute recognizes a `Result` by its name. A type alias with another name does not
/// compile, because its `Err` would be stored as a value. (To store a `Result`, return a
/// `Result<Result<T, E>, TaskError>`.)
///
/// # Names
///
/// A task's name is the name of a static, and no variable or parameter can have the name of a
/// static in scope: with a task `total` in scope, neither `let total = 1` nor a parameter `total`
/// compiles. Give one of them another name.
///
/// A macro may have its own variables. `#[tokio::main]` and `#[tokio::test]` have one called
/// `body`, so they do not compile where a task `body` is in scope, although a chord has one. Give the
/// function another name, `#[task(name = "body")] async fn summarize(…)`, or move it into another
/// module.
///
/// A task is a free function. In an `impl` block the attribute does not compile.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(options.into(), item.into()).into()
}
