//! Application data: what an app gives to its tasks beside their arguments.

use std::any::{Any, TypeId, type_name};
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Result, StartError};

/// Application data: a value that the app gives to its tasks, such as a connection pool, a client
/// or the settings of the program. It is passed to [`AppBuilder::data`](crate::AppBuilder::data),
/// one value of each type. A task takes it as a parameter `Data<T>`, after the context and before
/// the arguments, or asks for it with [`TaskContext::data`](crate::TaskContext::data).
///
/// ```
/// use chordal::prelude::*;
///
/// struct Prices {
///     cents: u64,
/// }
///
/// #[task]
/// async fn total(prices: Data<Prices>, items: u64) -> u64 {
///     items * prices.cents
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
///
/// let app = App::in_memory().data(Prices { cents: 250 }).tasks(tasks![total]).start().await?;
/// assert_eq!(app.apply_async(total.s(3)).await?.get().await?, 750);
///
/// // Without an app the data is an ordinary parameter:
/// assert_eq!(total.call(Data::new(Prices { cents: 1 }), 3).await, 3);
/// # app.shutdown().await }
/// ```
///
/// It is no part of a signature and is never stored: `total.s(3)` above has one argument, and a
/// restart, or a new build, passes its own data. [`start`](crate::AppBuilder::start) fails if a
/// registered task takes data that the app does not have.
///
/// `#[task]` recognizes the type by its name: write `Data<T>`, or a path that ends with it. A
/// parameter of another type that is called `Data<T>` does not compile; import that type under
/// another name. A type `Data` without a parameter is an argument like any other.
///
/// A clone refers to the same value. The value is dropped with the last clone, and not before the
/// [`App`](crate::App) and all handles from it.
pub struct Data<T>(Arc<T>);

impl<T> Data<T> {
    /// Wraps a value, for calling a task's function directly.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task]
    /// async fn greet(greeting: Data<String>, name: String) -> String {
    ///     format!("{}, {name}", *greeting)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// assert_eq!(greet.call(Data::new("Hello".into()), "Ada".into()).await, "Hello, Ada");
    /// # }
    /// ```
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Data<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Data<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Shows the type, never the value.
impl<T> fmt::Debug for Data<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data<{}>", type_name::<T>())
    }
}

/// A type of application data, as [`Task::DATA`](crate::Task::DATA) lists it.
///
/// ```
/// # use chordal::{DataType, Parameter, Task, TaskContext, TaskError};
/// struct Pool;
/// struct Ping;
///
/// impl Task for Ping {
///     type Args = ();
///     type Output = ();
///     const NAME: &'static str = "ping";
///     const PARAMS: &'static [Parameter] = &[];
///     const DATA: &'static [DataType] = &[DataType::of::<Pool>()];
///
///     async fn run(context: TaskContext, (): ()) -> Result<(), TaskError> {
///         let pool = context.data::<Pool>()?;
///         drop(pool);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Copy)]
pub struct DataType {
    id: TypeId,
    name: fn() -> &'static str,
}

impl DataType {
    /// Returns the type `T`.
    #[must_use]
    pub const fn of<T: Send + Sync + 'static>() -> Self {
        Self {
            id: TypeId::of::<T>(),
            name: type_name::<T>,
        }
    }

    /// Returns the path of the type, for messages.
    pub(super) fn name(self) -> &'static str {
        (self.name)()
    }
}

impl fmt::Debug for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The data of an app, by type.
#[derive(Default)]
pub(crate) struct AppData {
    values: HashMap<TypeId, (DataType, Arc<dyn Any + Send + Sync>)>,
    /// A type of which two values were given.
    duplicate: Option<DataType>,
}

impl AppData {
    /// Adds a value. [`check`](Self::check) reports a second one of its type.
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let of = DataType::of::<T>();
        match self.values.entry(of.id) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert((of, Arc::new(value)));
            }
            hash_map::Entry::Occupied(_) => {
                self.duplicate.get_or_insert(of);
            }
        }
    }

    /// Checks that there was one value of each type.
    pub(super) fn check(&self) -> Result<()> {
        match self.duplicate {
            None => Ok(()),
            Some(of) => Err(StartError::DuplicateData { data: of.name() }.into()),
        }
    }

    pub(super) fn contains(&self, of: DataType) -> bool {
        self.values.contains_key(&of.id)
    }

    pub(super) fn get<T: Send + Sync + 'static>(&self) -> Option<Data<T>> {
        let (_, value) = self.values.get(&TypeId::of::<T>())?;
        value.clone().downcast().ok().map(Data)
    }
}

/// Shows the types, never the values.
impl fmt::Debug for AppData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = self.values.values().map(|(of, _)| of);
        f.debug_set().entries(types).finish()
    }
}
