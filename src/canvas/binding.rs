//! Binding: the arguments of a call find their parameters, or are refused.

use super::parameter::{Parameter, default_of, fixed, usage};
use super::payload::{ListWriter, Payload};
use super::{Kwargs, Mode, TaskSig, arguments};

/// Binds the arguments of `sig` to the task's parameters: first by position, the value from
/// upstream before all others, then by name. Gives the arguments as they are stored, where these are
/// not those of `sig` (to clone these would allocate, for each of a million members).
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

struct Call<'a> {
    task: &'a str,
    parameters: &'a [Parameter],
    /// How many arguments come from upstream: one or none.
    upstream: u32,
}

impl Call<'_> {
    /// Refuses a wrong number of arguments.
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

    /// Tries arguments by position on the types of their parameters.
    fn check(&self, args: &Payload, count: u32) -> Result<(), String> {
        let upstream = self.upstream as usize;
        for (position, argument) in args.split(count)?.iter().enumerate() {
            if let Some(parameter) = self.taker(upstream + position) {
                self.try_on(parameter, argument)?;
            }
        }
        Ok(())
    }

    /// The parameter that takes the argument at this position.
    fn taker(&self, position: usize) -> Option<&Parameter> {
        let rest = || self.parameters.last().filter(|last| last.is_rest());
        self.parameters.get(position).or_else(rest)
    }

    fn try_on(&self, parameter: &Parameter, argument: &Payload) -> Result<(), String> {
        parameter
            .check(argument)
            .map_err(|error| format!("argument of task `{}`: {error}", self.task))
    }

    /// Every item of a map is a list of arguments.
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

    /// Puts arguments by name behind those by position; what is left out between them gets its
    /// default.
    fn fill(&self, args: &Payload, count: u32, kwargs: Kwargs) -> Result<(Payload, u32), String> {
        let given = (count + self.upstream) as usize;
        let fixed = fixed(self.parameters);
        if given > fixed && fixed == self.parameters.len() {
            return Err(self.wrong_count(&given.to_string()));
        }
        let mut named = vec![None; fixed];
        for (name, argument) in kwargs {
            let place = self.place(&name, given)?;
            self.try_on(&self.parameters[place], &argument)?;
            named[place] = Some(argument);
        }
        // Defaults behind the last one are added when the task is called.
        let end = named.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        let mut whole = ListWriter::raw();
        whole.push(args.bytes());
        for (place, parameter) in self.parameters[..fixed].iter().enumerate().skip(given) {
            if let Some(argument) = named[place].take() {
                whole.push(argument.bytes());
            } else if parameter.is_required() {
                return Err(self.wrong_count(&format!("no `{parameter}`")));
            } else if place < end {
                whole.push(default_of(parameter)?.bytes());
            }
        }
        Ok((whole.finish(), end.max(given) as u32 - self.upstream))
    }

    /// Which parameter has this name, if it can be given by name.
    fn place(&self, name: &str, given: usize) -> Result<usize, String> {
        let task = self.task;
        match self.parameters.iter().position(|p| p.name() == name) {
            None => Err(format!(
                "task `{task}` has no parameter `{name}`: it takes ({})",
                usage(self.parameters)
            )),
            Some(place) if self.parameters[place].is_rest() => Err(format!(
                "task `{task}` takes `{name}` by position only: it stands for any number of arguments"
            )),
            Some(place) if place < given => Err(format!(
                "task `{task}` gets `{name}` twice: by position and by name{}",
                if place == 0 && self.upstream > 0 {
                    "; the first one comes from upstream"
                } else {
                    ""
                }
            )),
            Some(place) => Ok(place),
        }
    }
}
