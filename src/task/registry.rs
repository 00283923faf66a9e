//! The registered tasks of an app: their names, their functions, and the call of a function with
//! stored arguments.

use std::any::TypeId;
use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use super::arguments::{Stored, StoredArgs, TaskArgs, TaskOutput, Unreadable};
use super::data::{AppData, DataType};
use super::limits::{DeclaredLimit, SharedLimits};
use super::name_length::refuse_long_name;
use super::{PayloadLimit, Task, TaskContext, TaskError, TaskOptions};
use crate::canvas::admission::start_limits::{LimitName, Rule};
use crate::canvas::binding;
use crate::canvas::breaker::{Breaker, OnOpen};
use crate::canvas::freeze::{Catalogue, FormatAddition, SizeExceeded, TaskDef};
use crate::canvas::options::{Options, TimeLimits};
use crate::canvas::parameter::{Parameter, complete, usage};
use crate::canvas::parked::{Misfit, NOT_REGISTERED};
use crate::canvas::payload::{Parts, Payload};
use crate::canvas::rate_limit::RateLimit;
use crate::error::{Error, Result, StartError};

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
    data: &'static [DataType],
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
        data: T::DATA,
        task: TypeId::of::<T>(),
        path: std::any::type_name::<T>,
        call: |context, args| Box::pin(call::<T>(context, args)),
    };
}

impl TaskEntry {
    /// Returns the entry of task `T`.
    #[doc(hidden)]
    #[must_use]
    pub fn of<T: Task>() -> Self {
        Self(&Of::<T>::ENTRY)
    }

    /// Returns the entry of `task`; [`tasks!`](crate::tasks!) calls it with a task's name, which is
    /// a value.
    #[doc(hidden)]
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

impl Entry {
    /// Returns whether it has a limit of its own or shares one.
    pub(crate) fn is_limited(&self) -> bool {
        let options = &self.options;
        options.rate_limit.is_some()
            || options.limit.is_some()
            || options.concurrency.is_some()
            || self.waits_for_breaker()
    }

    /// Returns whether it waits while its breaker is open.
    pub(crate) fn waits_for_breaker(&self) -> bool {
        self.options.breaker.is_some() && self.options.on_open == OnOpen::Wait
    }

    /// Returns the limits that it has alone.
    pub(crate) fn own_limits(&self) -> impl Iterator<Item = DeclaredLimit> {
        let options = &self.options;
        let rate = options.rate_limit.map(Rule::Rate);
        let concurrency = options.concurrency.map(Rule::Concurrency);
        let rules = [
            (rate, options.limit_by),
            (concurrency, options.concurrency_by),
        ];
        rules.into_iter().filter_map(|(rule, by)| {
            Some(DeclaredLimit {
                name: LimitName::Task(self.name.to_owned()),
                rule: rule?,
                by: by.map(Cow::Borrowed),
            })
        })
    }

    /// Returns the names of all its limits.
    pub(crate) fn limit_names(&self) -> impl Iterator<Item = LimitName> {
        let own = LimitName::Task(self.name.to_owned());
        let named = self.options.limit;
        let named = named.map(|name| LimitName::Named(name.to_owned()));
        std::iter::once(own).chain(named)
    }

    /// Refuses limits that no task could meet, or whose key is no parameter.
    pub(crate) fn check_limits(&self) -> Result<(), String> {
        let options = &self.options;
        options.rate_limit.map_or(Ok(()), RateLimit::check)?;
        if options.concurrency == Some(0) {
            return Err("a concurrency limit lets at least 1 attempt run".to_owned());
        }
        let of_breaker = [
            ("on_open", options.on_open != OnOpen::Wait),
            ("breaker_if", options.breaker_if.is_some()),
        ];
        if let Some((option, _)) = of_breaker.iter().find(|(_, is_set)| *is_set)
            && options.breaker.is_none()
        {
            return Err(format!(
                "`{option}` is about its `breaker`, which is not set"
            ));
        }
        let keys = [
            (
                "limit_by",
                options.limit_by,
                "rate_limit",
                options.rate_limit.is_some(),
            ),
            (
                "concurrency_by",
                options.concurrency_by,
                "concurrency",
                options.concurrency.is_some(),
            ),
        ];
        for (option, by, of, is_set) in keys {
            let Some(by) = by else { continue };
            if !is_set {
                return Err(format!("`{option}` divides its `{of}`, which is not set"));
            }
            if !self
                .parameters
                .iter()
                .any(|parameter| parameter.name() == by)
            {
                let names = self
                    .parameters
                    .iter()
                    .map(|one| format!("`{}`", one.name()));
                let names: Vec<_> = names.collect();
                return Err(format!(
                    "`{option}` names the parameter `{by}`, which it does not have; its parameters are {}",
                    names.join(", ")
                ));
            }
        }
        Ok(())
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

/// All tasks of an app, by name, with the limit on their payloads and the data that they take.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    tasks: HashMap<&'static str, &'static Entry>,
    payloads: PayloadLimit,
    data: AppData,
    limits: SharedLimits,
    /// The [additions to the format](FormatAddition) that a canvas has needed.
    additions: [AtomicBool; FormatAddition::ALL.len()],
}

impl Registry {
    pub(crate) fn new(
        entries: impl IntoIterator<Item = TaskEntry>,
        payloads: PayloadLimit,
        data: AppData,
        limits: SharedLimits,
    ) -> Result<Self> {
        data.check()?;
        limits.check()?;
        let mut tasks = HashMap::new();
        for TaskEntry(entry) in entries {
            let priority = match entry.options.priority {
                0..=9 => Ok(()),
                _ => Err("a priority is 0 to 9".to_owned()),
            };
            let options = priority.and_then(|()| entry.options.limits().check());
            if let Err(reason) = options.and_then(|()| entry.check_limits()) {
                return Err(Error::Start(StartError::InvalidTask {
                    name: entry.name.to_owned(),
                    reason,
                }));
            }
            if let Some(missing) = entry.data.iter().find(|of| !data.contains(**of)) {
                return Err(StartError::MissingData {
                    task: entry.name,
                    data: missing.name(),
                }
                .into());
            }
            if let Some(limit) = entry.options.limit
                && !limits.contains(limit)
            {
                return Err(StartError::UnknownLimit {
                    task: entry.name,
                    limit,
                }
                .into());
            }
            if let Some(breaker) = entry.options.breaker
                && !limits.breakers.contains_key(breaker)
            {
                return Err(StartError::UnknownBreaker {
                    task: entry.name,
                    breaker,
                }
                .into());
            }
            refuse_long_name("task", entry.name, "")?;
            refuse_long_name("queue", entry.options.queue, entry.name)?;
            match tasks.entry(entry.name) {
                hash_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                // Listing one task twice is no mistake.
                hash_map::Entry::Occupied(existing) if existing.get().task == entry.task => {}
                hash_map::Entry::Occupied(existing) => {
                    return Err(Error::Start(StartError::DuplicateTask {
                        name: entry.name.to_owned(),
                        first: (existing.get().path)(),
                        second: (entry.path)(),
                    }));
                }
            }
        }
        Ok(Self {
            tasks,
            payloads,
            data,
            limits,
            additions: Default::default(),
        })
    }

    /// Returns whether a canvas has needed this addition to the format.
    pub(crate) fn is_used(&self, addition: FormatAddition) -> bool {
        self.additions[addition as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'static Entry> {
        self.tasks.get(name).copied()
    }

    /// Returns all registered tasks.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        self.tasks.values().copied()
    }

    /// Returns all limits on what starts: those of single tasks, and those that tasks share.
    pub(crate) fn limits(&self) -> impl Iterator<Item = DeclaredLimit> {
        let own = self.entries().flat_map(Entry::own_limits);
        own.chain(self.limits.declared())
    }

    /// Returns all breakers, by name.
    pub(crate) fn breakers(&self) -> impl Iterator<Item = (&str, Breaker)> {
        let breakers = self.limits.breakers.iter();
        breakers.map(|(name, breaker)| (&**name, *breaker))
    }

    pub(crate) fn data(&self) -> &AppData {
        &self.data
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

impl Catalogue for Registry {
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]> {
        self.get(name).map(|entry| entry.parameters)
    }

    fn admit(&self, name: &str, bytes: usize) -> Result<(), SizeExceeded> {
        self.check(name, "arguments", bytes)
    }

    fn note_addition(&self, addition: FormatAddition) {
        self.additions[addition as usize].store(true, Ordering::Relaxed);
    }

    fn limits(&self, name: &str) -> TimeLimits {
        self.get(name)
            .map_or_else(TimeLimits::default, |entry| entry.options.limits())
    }
}
