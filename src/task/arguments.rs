//! The arguments and the result of a task, and how they are stored.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::canvas::payload::{Parts, Payload};

/// An argument of a task: anything that serde can store and read back.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a task: arguments are stored",
    label = "`{Self}` cannot be stored",
    note = "an argument is owned, can be sent between threads, and derives `serde::Serialize` and `serde::Deserialize`",
    note = "a pool, a client or another handle is no argument: give it to the app with `AppBuilder::data`, and take it before the arguments as `Data<T>`"
)]
pub trait TaskArg: Serialize + DeserializeOwned + Send + 'static {}

// Otherwise the compiler asks for serde's traits on the types inside.
#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> TaskArg for T {}

/// All arguments of a task: a tuple of up to 16 [`TaskArg`]s.
///
/// (serde's traits are not supertraits here, nor of [`TaskOutput`], because the compiler would name
/// them instead of these. A generic function that needs them states it: `where T::Output:
/// DeserializeOwned`.)
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of what a task can take",
    label = "write a tuple: `(X,)`, `(X, Y)`"
)]
pub trait TaskArgs: sealed::Sealed + Send + Sized + 'static {
    #[doc(hidden)]
    fn encode(&self) -> Result<Stored, String>;
    #[doc(hidden)]
    fn decode(args: StoredArgs) -> Result<Self, Unreadable>;
}

/// The result of a task: anything that serde can store and read back.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a task: results are stored",
    label = "`{Self}` cannot be stored",
    note = "a result is owned, can be sent between threads, and derives `serde::Serialize` and `serde::Deserialize`"
)]
pub trait TaskOutput: Send + 'static {
    #[doc(hidden)]
    fn encode(&self) -> Result<Stored, String>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> TaskOutput for T {
    fn encode(&self) -> Result<Stored, String> {
        Payload::encode_readable(self).map(Stored)
    }
}

/// A value in stored form.
#[doc(hidden)]
#[derive(Debug)]
pub struct Stored(pub(super) Payload);

/// The arguments of one call in stored form.
#[doc(hidden)]
#[allow(missing_debug_implementations)] // never shown: arguments may be secret
pub struct StoredArgs(pub(super) Parts);

/// Stored arguments that do not fit a task's parameters.
#[doc(hidden)]
#[allow(missing_debug_implementations)] // never shown: arguments may be secret
pub struct Unreadable {
    pub(super) error: String,
    /// The arguments, if they are in one piece.
    pub(super) args: Option<Payload>,
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! tuples {
    ($($arg:ident)*) => {
        tuples!(@ [] $($arg)*);
    };
    (@ [$($arg:ident)*]) => {
        tuples!(= $($arg)*);
    };
    (@ [$($arg:ident)*] $next:ident $($more:ident)*) => {
        tuples!(= $($arg)*);
        tuples!(@ [$($arg)* $next] $($more)*);
    };
    (= $($arg:ident)*) => {
        impl<$($arg),*> sealed::Sealed for ($($arg,)*) {}

        impl<$($arg: TaskArg),*> TaskArgs for ($($arg,)*) {
            fn encode(&self) -> Result<Stored, String> {
                Payload::encode_readable(self).map(Stored)
            }

            fn decode(StoredArgs(args): StoredArgs) -> Result<Self, Unreadable> {
                let args = args.decode_or_back();
                args.map_err(|(error, args)| Unreadable { error, args })
            }
        }
    };
}

tuples!(A B C D E F G H I J K L M N O P);
