//! Items for the expansion of [`#[task]`](macro@crate::task) that are not public API. The attribute
//! sees how a type is written, but only the compiler knows the type. Method resolution takes the
//! first type on which a method fits, and an inherent constant goes before a trait's, so the
//! expansion uses these rules to choose.

use std::marker::PhantomData;
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::Stored;
use super::data::{Data, DataType};
use super::error::IntoTaskError;
use super::{TaskContext, TaskError};
use crate::canvas::parameter::ParameterType;
use crate::canvas::payload::Payload;

/// Determines whether a type is a `Result`: `Returned::<T>::IS_RESULT`, with [`NoResult`] in scope.
#[derive(Debug)]
pub struct Returned<T>(PhantomData<T>);

impl<T, E> Returned<Result<T, E>> {
    pub const IS_RESULT: bool = true;
}

/// Provides the constant for all other types.
pub trait NoResult {
    const IS_RESULT: bool = false;
}

impl<T> NoResult for Returned<T> {}

/// Provides the `ParameterType` of a type: `Typed::<T>::TYPE`, with [`Untyped`] in scope.
#[derive(Debug)]
pub struct Typed<T>(PhantomData<T>);

impl<T: DeserializeOwned + 'static> Typed<T> {
    pub const TYPE: ParameterType = ParameterType::of::<T>();
}

/// Provides the constant for types that cannot be stored; the task's `Args` already reports the
/// error.
pub trait Untyped {
    const TYPE: ParameterType = ParameterType::of::<()>();
}

impl<T> Untyped for Typed<T> {}

/// Arguments of a signature, encoded if their types allow it: `(&&Rest(&args)).encoded()`.
#[derive(Debug)]
pub struct Rest<'a, T>(pub &'a T);

pub trait Encoded {
    fn encoded(&self) -> Result<Stored, String>;
}

impl<T: Serialize> Encoded for &Rest<'_, T> {
    fn encoded(&self) -> Result<Stored, String> {
        Payload::encode(self.0).map(Stored)
    }
}

/// Provides the method for types that cannot be stored; the task's `Args` already reports the
/// error.
pub trait NotEncoded {
    fn encoded(&self) -> Result<Stored, String> {
        Err("they cannot be stored".to_owned())
    }
}

impl<T> NotEncoded for Rest<'_, T> {}

/// The type of a parameter that is called `Data<T>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not chordal's `Data<T>`",
    label = "called `Data`, but another type",
    note = "a parameter `Data<T>` of a task is application data: give this type another name here, `use … as Payload`, or a type alias"
)]
pub trait ApplicationData: Sized {
    const TYPE: DataType;

    /// Returns the app's data of this type; only a context outside an app has none.
    fn find(context: &TaskContext) -> Result<Self, TaskError>;
}

impl<T: Send + Sync + 'static> ApplicationData for Data<T> {
    const TYPE: DataType = DataType::of::<T>();

    fn find(context: &TaskContext) -> Result<Self, TaskError> {
        context
            .data()
            .map_err(|error| TaskError::from(error).fatal())
    }
}

/// The type of an error, which selects its conversion into a [`TaskError`]:
/// `(&&&&ErrorOf::new(&error)).conversion().convert(error)`.
#[derive(Debug)]
pub struct ErrorOf<E>(PhantomData<E>);

impl<E> ErrorOf<E> {
    #[must_use]
    pub fn new(_: &E) -> Self {
        Self(PhantomData)
    }
}

/// First choice: the conversion of `?`.
pub trait ByInto {
    fn conversion(&self) -> Converted {
        Converted
    }
}

impl<E: Into<TaskError>> ByInto for &&&ErrorOf<E> {}

/// Second choice: `Box<dyn Error>`, `anyhow::Error`, `eyre::Report`.
pub trait ByDeref {
    fn conversion(&self) -> Boxed {
        Boxed
    }
}

impl<E: Deref<Target: std::error::Error>> ByDeref for &&ErrorOf<E> {}

/// Third choice: a text.
pub trait ByText {
    fn conversion(&self) -> Text {
        Text
    }
}

impl<E: Into<String>> ByText for &ErrorOf<E> {}

/// No choice: the compiler reports the reason.
pub trait ByNothing {
    fn conversion(&self) -> Unknown {
        Unknown
    }
}

impl<E> ByNothing for ErrorOf<E> {}

#[derive(Debug)]
pub struct Converted;
#[derive(Debug)]
pub struct Boxed;
#[derive(Debug)]
pub struct Text;
#[derive(Debug)]
pub struct Unknown;

impl Converted {
    pub fn convert(self, error: impl Into<TaskError>) -> TaskError {
        error.into()
    }
}

impl Boxed {
    pub fn convert<E: Deref<Target: std::error::Error>>(self, error: E) -> TaskError {
        TaskError::from_boxed(error)
    }
}

impl Text {
    pub fn convert(self, error: impl Into<String>) -> TaskError {
        TaskError::new(error)
    }
}

impl Unknown {
    pub fn convert(self, error: impl IntoTaskError) -> TaskError {
        error.into_task_error()
    }
}
