//! Parameters of a task: their names, defaults and types.

use std::any::TypeId;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outcome::TaskFailure;
use super::payload::{ListWriter, Parts, Payload};

/// One parameter of a [`Task`](crate::Task), as [`#[task]`](macro@crate::task) generates them.
///
/// Arguments are stored one after the other; those of a rest parameter are not a nested list.
/// Defaults are filled in when the arguments are decoded, so a parameter with a default can be
/// added to a task while calls of it are stored.
///
/// ```
/// use chordal::{Parameter, Task, TaskContext, TaskError};
///
/// struct Scale;
///
/// impl Task for Scale {
///     type Args = (i64, Vec<i64>);
///     type Output = Vec<i64>;
///     const NAME: &'static str = "scale";
///     const PARAMS: &'static [Parameter] = &[
///         Parameter::optional::<i64>("by", &|| 2),
///         Parameter::rest::<i64>("numbers"),
///     ];
///
///     async fn run(_: TaskContext, (by, numbers): Self::Args) -> Result<Vec<i64>, TaskError> {
///         Ok(numbers.into_iter().map(|n| n * by).collect())
///     }
/// }
///
/// assert_eq!(Scale::PARAMS[1].name(), "numbers");
/// ```
#[derive(Clone, Copy)]
pub struct Parameter {
    name: &'static str,
    kind: Kind,
    streamed: bool,
    ty: ParameterType,
}

/// The type of a parameter.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct ParameterType {
    type_name: fn() -> &'static str,
    type_id: fn() -> TypeId,
    /// Checks that an argument decodes as this type.
    check: fn(&Payload) -> Result<(), String>,
}

impl ParameterType {
    pub(crate) const fn of<T: DeserializeOwned + 'static>() -> Self {
        Self {
            type_name: std::any::type_name::<T>,
            type_id: TypeId::of::<T>,
            check: |payload| payload.decode_exactly::<T>().map(drop),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Required,
    Optional(&'static dyn Encode),
    /// Takes all arguments after those of the other parameters.
    Rest,
}

/// A default value of any type.
trait Encode: Sync {
    fn encode(&self) -> Result<Payload, String>;
}

impl<T: Serialize, F: Fn() -> T + Sync> Encode for F {
    fn encode(&self) -> Result<Payload, String> {
        Payload::encode(&self())
    }
}

impl Parameter {
    /// Creates a parameter that every call must give.
    #[must_use]
    pub const fn required<T: DeserializeOwned + 'static>(name: &'static str) -> Self {
        Self::required_of(name, ParameterType::of::<T>())
    }

    /// As [`required`](Self::required), for the code that `#[task]` generates.
    #[doc(hidden)]
    #[must_use]
    pub const fn required_of(name: &'static str, ty: ParameterType) -> Self {
        Self::new(name, Kind::Required, ty)
    }

    /// Creates a parameter that a call may omit: each omission calls `default` for the value.
    #[must_use]
    pub const fn optional<T: Serialize + DeserializeOwned + 'static>(
        name: &'static str,
        default: &'static (impl Fn() -> T + Sync),
    ) -> Self {
        Self::new(name, Kind::Optional(default), ParameterType::of::<T>())
    }

    /// Creates the last parameter, which takes any number of arguments of type `T`. In the task's
    /// `Args` it is a `Vec<T>`.
    #[must_use]
    pub const fn rest<T: DeserializeOwned + 'static>(name: &'static str) -> Self {
        Self::rest_of(name, ParameterType::of::<T>())
    }

    /// As [`rest`](Self::rest), for the code that `#[task]` generates.
    #[doc(hidden)]
    #[must_use]
    pub const fn rest_of(name: &'static str, ty: ParameterType) -> Self {
        Self::new(name, Kind::Rest, ty)
    }

    const fn new(name: &'static str, kind: Kind, ty: ParameterType) -> Self {
        Self {
            name,
            kind,
            streamed: false,
            ty,
        }
    }

    /// Makes the first parameter a [`Results`](crate::Results) that reads an upstream list from the
    /// store. The task's `run` calls [`Results::within`](crate::Results::within) on it.
    #[must_use]
    pub const fn streamed(self) -> Self {
        Self {
            streamed: true,
            ..self
        }
    }

    pub(crate) const fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Returns the name, which keyword arguments use.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns whether every call must give the parameter.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        matches!(self.kind, Kind::Required)
    }

    pub(crate) const fn is_rest(&self) -> bool {
        matches!(self.kind, Kind::Rest)
    }

    /// Returns whether it has the type that an errback takes.
    pub(crate) fn is_failure(&self) -> bool {
        (self.ty.type_id)() == TypeId::of::<TaskFailure>()
    }

    /// Returns the encoded default, if there is one.
    fn default(&self) -> Option<Result<Payload, String>> {
        match self.kind {
            Kind::Optional(default) => Some(default.encode()),
            Kind::Required | Kind::Rest => None,
        }
    }

    /// Checks `argument`; the error names the found and the expected type.
    pub(crate) fn check(&self, argument: &Payload) -> Result<(), String> {
        (self.ty.check)(argument).map_err(|error| {
            let full = (self.ty.type_name)();
            let taken = format!("`{}` takes {}", self.name, without_paths(full));
            match error.strip_suffix(&format!(" does not fit into {full}")) {
                Some(found) if found == argument.kind() => format!("{taken}, but gets {found}"),
                Some(found) => format!("{taken}: {found} within it does not fit"),
                None => format!("{taken}: {error}"),
            }
        })
    }
}

impl Parameter {
    /// As [`check`](Self::check), but the argument of a rest parameter is a list.
    pub(crate) fn check_all(&self, argument: &Payload) -> Result<(), String> {
        if !self.is_rest() {
            return self.check(argument);
        }
        let all = argument.elements()?;
        all.iter().try_for_each(|one| self.check(one))
    }
}

/// Formats the parameter as in a usage line: `x`, `[y]`, `args..`.
impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Required => f.write_str(self.name),
            Kind::Optional(_) => write!(f, "[{}]", self.name),
            Kind::Rest => write!(f, "{}..", self.name),
        }
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}: {}", without_paths((self.ty.type_name)()))
    }
}

/// Shortens `alloc::vec::Vec<alloc::string::String>` to `Vec<String>`.
fn without_paths(name: &str) -> String {
    let mut short = String::new();
    for part in name.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
        short.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    short
}

/// Formats the parameters as in a usage line.
pub(crate) fn usage(parameters: &[Parameter]) -> String {
    let each: Vec<_> = parameters.iter().map(ToString::to_string).collect();
    each.join(", ")
}

/// Returns the number of parameters before the rest parameter, if there is one.
pub(crate) fn fixed(parameters: &[Parameter]) -> usize {
    parameters.len() - usize::from(parameters.last().is_some_and(Parameter::is_rest))
}

/// Returns whether a task may be called with two arguments.
pub(crate) fn takes_two(parameters: &[Parameter]) -> bool {
    let required = parameters
        .iter()
        .filter(|parameter| parameter.is_required());
    let most = match fixed(parameters) {
        all if all == parameters.len() => all,
        _ => usize::MAX,
    };
    required.count() <= 2 && most >= 2
}

/// Returns the default of an omitted parameter.
pub(crate) fn default_of(parameter: &Parameter) -> Result<Payload, String> {
    match parameter.default() {
        Some(default) => default.map_err(|error| format!("default of `{parameter}`: {error}")),
        None => Err(format!("`{parameter}` is missing")),
    }
}

/// Turns a stored list of arguments into one element per parameter: adds the defaults, and collects
/// the rest arguments into a list.
pub(crate) fn complete(parameters: &[Parameter], args: Parts) -> Result<Parts, String> {
    let fixed = fixed(parameters);
    let given = args.len()? as usize;
    if fixed == parameters.len() && given >= fixed {
        return Ok(args); // Complete, or too many: decoding the tuple then reports it.
    }
    let mut defaults = ListWriter::raw();
    for parameter in parameters.iter().take(fixed).skip(given) {
        defaults.push(default_of(parameter)?.bytes());
    }
    let mut args = args.without_head()?;
    if fixed < parameters.len() {
        let rest = args.split_off(fixed.min(given))?;
        defaults.begin(given.saturating_sub(fixed));
        defaults.push(&rest);
    }
    args.push(defaults.finish().bytes());
    Ok(args.with_head(parameters.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: &[Parameter] = &[
        Parameter::required::<i64>("x"),
        Parameter::optional::<Option<String>>("a", &|| None),
        Parameter::rest::<Vec<i64>>("more"),
    ];

    fn completed(parameters: &[Parameter], args: &serde_json::Value) -> Result<String, String> {
        let args = Payload::encode(args)?.into();
        let value: serde_json::Value = complete(parameters, args)?.decode()?;
        Ok(value.to_string())
    }

    #[test]
    fn defaults_and_rest_arguments_are_completed() {
        for (given, whole) in [
            ("[1]", "[1,null,[]]"),
            (r#"[1,"a"]"#, r#"[1,"a",[]]"#),
            (r#"[1,"a",[2],[3]]"#, r#"[1,"a",[[2],[3]]]"#),
        ] {
            let given = serde_json::from_str(given).unwrap();
            assert_eq!(completed(PARAMETERS, &given).unwrap(), whole);
        }
        let none = serde_json::json!([]);
        assert_eq!(completed(PARAMETERS, &none).unwrap_err(), "`x` is missing");
        assert_eq!(completed(&PARAMETERS[2..], &none).unwrap(), "[[]]");
        assert_eq!(completed(&PARAMETERS[1..2], &none).unwrap(), "[null]");
    }

    #[test]
    fn arguments_in_many_parts_are_completed() {
        let text = "x".repeat(700_000);
        let mut list = ListWriter::new(5, 0);
        for _ in 0..5 {
            list.push(Payload::encode(&text).unwrap().bytes());
        }
        let parameters = &[
            Parameter::required::<String>("first"),
            Parameter::rest::<String>("others"),
        ];
        let completed_args = complete(parameters, list.finish_parts()).unwrap();
        let (first, others): (String, Vec<String>) = completed_args.decode().unwrap();
        assert!(first == text && others == vec![text; 4]);
    }

    #[test]
    fn a_type_is_named_without_its_paths() {
        let shown: Vec<_> = PARAMETERS.iter().map(|p| format!("{p:?}")).collect();
        assert_eq!(shown, ["x: i64", "[a]: Option<String>", "more..: Vec<i64>"]);
        assert_eq!(
            without_paths("(alloc::vec::Vec<u8>, &str)"),
            "(Vec<u8>, &str)"
        );
    }

    #[test]
    fn a_failed_check_names_the_found_and_the_expected_type() {
        let check = |parameter: &Parameter, argument: serde_json::Value| {
            parameter.check(&Payload::encode(&argument).unwrap())
        };
        assert_eq!(check(&PARAMETERS[0], 2.into()), Ok(()));
        let errors = [
            check(&PARAMETERS[0], "two".into()),
            check(&PARAMETERS[1], true.into()),
            check(&PARAMETERS[2], serde_json::json!([1, "two"])),
        ];
        assert_eq!(
            errors.map(Result::unwrap_err),
            [
                "`x` takes i64, but gets a string",
                "`a` takes Option<String>: invalid type: boolean `true`, expected a string",
                "`more` takes Vec<i64>: a string within it does not fit",
            ]
        );
    }
}
