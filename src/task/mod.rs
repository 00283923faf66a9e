//! The tasks that a user writes, their context and their errors.

mod arguments;
mod boxed;
mod constructors;
mod context;
mod data;
mod error;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod expansion;
mod fold;
mod host;
mod limits;
mod name_length;
mod options;
mod payload_limit;
mod registry;
mod results;
mod retry;
mod returned;
mod signal;

pub use self::arguments::{TaskArg, TaskArgs, TaskOutput};
pub use self::context::TaskContext;
pub(crate) use self::data::AppData;
pub use self::data::{Data, DataType};
pub(crate) use self::error::Next;
pub use self::error::{IntoTaskError, TaskError};
pub(crate) use self::host::TaskHost;
pub(crate) use self::limits::{DeclaredLimit, SharedLimits};
pub(crate) use self::name_length::refuse_long_name;
pub use self::options::{DEFAULT_QUEUE, TaskOptions};
pub(crate) use self::payload_limit::PayloadLimit;
pub use self::registry::TaskEntry;
pub(crate) use self::registry::{Call, Entry, Registry};
pub use self::results::Results;
pub use self::retry::Retry;
pub use self::returned::{Replaced, TaskResult};
pub(crate) use self::signal::{Signal, SoftLimit};
use crate::canvas::parameter::Parameter;

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
    /// The [application data](Data) that the function takes. An app that lacks some of it does not
    /// start.
    const DATA: &'static [DataType] = &[];
    /// The queue, the retries and the limits.
    const OPTIONS: TaskOptions = TaskOptions::new();

    /// Runs the function once. A blocking task's future runs on its own thread.
    fn run(
        context: TaskContext,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}
