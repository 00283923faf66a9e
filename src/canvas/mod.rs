//! The canvas: the workflows that a user composes, their frozen form, and the machines that decide
//! each step.
//!
//! Pure: nothing here depends on actors, stores, clocks or randomness. Times and ids are arguments.
pub(crate) mod admission;
pub(crate) mod binding;
pub(crate) mod breaker;
mod call;
pub(crate) mod celery_json;
mod chain;
mod chord;
mod depth;
pub(crate) mod first_tasks;
mod fold;
mod form;
pub(crate) mod freeze;
mod group;
pub(crate) mod group_policy;
pub(crate) mod id;
pub(crate) mod limit_key;
pub(crate) mod machine;
pub(crate) mod name;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod parameter;
pub(crate) mod parked;
pub(crate) mod payload;
pub(crate) mod quarantine;
pub(crate) mod rate_limit;
pub(crate) mod retry;
pub(crate) mod revocation;
pub(crate) mod revoke_outcome;
pub(crate) mod schedule;
mod settings;
mod signature;
mod size;
pub(crate) mod stamps;
pub(crate) mod state;
pub(crate) mod stored_options;
mod task;
pub(crate) mod task_update;
pub(crate) mod time;
pub(crate) mod why;

pub use chain::chain;
pub use chord::{Header, chord};
pub use form::Canvas;
pub(crate) use form::{Form, Mode, Order, Origin, TaskSig};
pub use group::{Members, group, group_of};
pub use signature::{Accepts, Immutable, Signature};
pub(crate) use task::arguments;
