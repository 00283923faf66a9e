//! Binding: matches the arguments of a call with the task's parameters, or refuses them.

use super::form::{Kwargs, Mode, TaskSig};
use super::freeze::TaskDef;
use super::parameter::{Parameter, default_of, fixed, usage};
use super::payload::{ListWriter, Payload};
use super::task::arguments;

/// Binds the arguments of `sig` to the task's parameters: first by position, with the upstream
/// value before all others, then by name. Returns the arguments to store if they differ from those
/// of `sig`; cloning those would allocate for each of a million members.
pub(crate) fn bind(
    sig: &TaskSig,
    kwargs: Kwargs,
    takes_upstream: bool,
    parameters: &[Parameter],
) -> Result<Option<(Payload, u32)>, String> {
    let call = Call {
        task: &sig.name,
        parameters,
        upstream: u32::from(takes_upstream),
    };
    if sig.mode == Mode::Map {
        if sig.is_dynamic() {
            call.check_items(&sig.args, sig.count)?;
        }
        return Ok(None);
    }
    if kwargs.is_empty() {
        call.count(sig.count)?;
    }
    if sig.is_dynamic() {
        call.check(&sig.args, sig.count)?;
    }
    if kwargs.is_empty() {
        return Ok(None);
    }
    call.fill(&sig.args, sig.count, kwargs).map(Some)
}

/// Checks a task's stored arguments against its parameters, which may have changed since.
pub(crate) fn check_stored(task: &TaskDef, parameters: &[Parameter]) -> Result<(), String> {
    let call = Call {
        task: &task.name,
        parameters,
        upstream: u32::from(task.takes_upstream),
    };
    match task.mode {
        Mode::Map => call.check_items(&task.args, task.count),
        Mode::Once | Mode::OnceUntyped => {
            call.count(task.count)?;
            call.check(&task.args, task.count)
        }
    }
}

struct Call<'a> {
    task: &'a str,
    parameters: &'a [Parameter],
    /// The number of upstream arguments: 0 or 1.
    upstream: u32,
}

impl Call<'_> {
    /// Checks the number of arguments.
    fn count(&self, count: u32) -> Result<(), String> {
        let given = (count + self.upstream) as usize;
        let required = self.parameters.iter().filter(|p| p.is_required()).count();
        let fixed = fixed(self.parameters);
        if given >= required && (given <= fixed || fixed < self.parameters.len()) {
            return Ok(());
        }
        Err(self.wrong_count(&format!(
            "{given}{}",
            if self.upstream > 0 {
                ", the value from upstream included"
            } else {
                ""
            }
        )))
    }

    fn wrong_count(&self, given: &str) -> String {
        let required = self.parameters.iter().filter(|p| p.is_required()).count();
        let fixed = fixed(self.parameters);
        let (range, last) = if fixed < self.parameters.len() {
            (format!("at least {required}"), required)
        } else if required < fixed {
            (format!("{required} to {fixed}"), fixed)
        } else {
            (fixed.to_string(), fixed)
        };
        format!(
            "task `{}` takes {range} argument{} ({}), but gets {given}",
            self.task,
            if last == 1 { "" } else { "s" },
            usage(self.parameters),
        )
    }

    /// Checks positional arguments against the types of their parameters.
    fn check(&self, args: &Payload, count: u32) -> Result<(), String> {
        let upstream = self.upstream as usize;
        for (position, argument) in args.split(count)?.iter().enumerate() {
            if let Some(parameter) = self.taker(upstream + position) {
                self.check_argument(parameter, argument)?;
            }
        }
        Ok(())
    }

    /// Returns the parameter that takes the argument at this position.
    fn taker(&self, position: usize) -> Option<&Parameter> {
        let rest = || self.parameters.last().filter(|last| last.is_rest());
        self.parameters.get(position).or_else(rest)
    }

    fn check_argument(&self, parameter: &Parameter, argument: &Payload) -> Result<(), String> {
        parameter
            .check(argument)
            .map_err(|error| format!("argument of task `{}`: {error}", self.task))
    }

    /// Checks the items of a map, each of which is a list of arguments.
    fn check_items(&self, items: &Payload, count: u32) -> Result<(), String> {
        for (i, item) in items.split(count)?.iter().enumerate() {
            arguments(item)
                .and_then(|(args, count)| {
                    self.count(count)?;
                    self.check(&args, count)
                })
                .map_err(|error| format!("item {i}: {error}"))?;
        }
        Ok(())
    }

    /// Puts the named arguments after the positional ones and fills the gaps with defaults.
    fn fill(&self, args: &Payload, count: u32, kwargs: Kwargs) -> Result<(Payload, u32), String> {
        let given = (count + self.upstream) as usize;
        let fixed = fixed(self.parameters);
        if given > fixed && fixed == self.parameters.len() {
            return Err(self.wrong_count(&given.to_string()));
        }
        let mut named = vec![None; fixed];
        for (name, argument) in kwargs {
            let index = self.index_of(&name, given)?;
            self.check_argument(&self.parameters[index], &argument)?;
            named[index] = Some(argument);
        }
        // Defaults after the last named argument are added when the task is called.
        let end = named.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        let mut list = ListWriter::raw();
        list.push(args.bytes());
        for (index, parameter) in self.parameters[..fixed].iter().enumerate().skip(given) {
            if let Some(argument) = named[index].take() {
                list.push(argument.bytes());
            } else if parameter.is_required() {
                return Err(self.wrong_count(&format!("no `{parameter}`")));
            } else if index < end {
                list.push(default_of(parameter)?.bytes());
            }
        }
        Ok((list.finish(), end.max(given) as u32 - self.upstream))
    }

    /// Returns the index of the parameter with this name, if it can be given by name.
    fn index_of(&self, name: &str, given: usize) -> Result<usize, String> {
        let task = self.task;
        match self.parameters.iter().position(|p| p.name() == name) {
            None => Err(format!(
                "task `{task}` has no parameter `{name}`: it takes ({})",
                usage(self.parameters)
            )),
            Some(index) if self.parameters[index].is_rest() => Err(format!(
                "task `{task}` takes `{name}` by position only: it stands for any number of arguments"
            )),
            Some(index) if index < given => Err(format!(
                "task `{task}` gets `{name}` twice: by position and by name{}",
                if index == 0 && self.upstream > 0 {
                    "; the first one comes from upstream"
                } else {
                    ""
                }
            )),
            Some(index) => Ok(index),
        }
    }
}
