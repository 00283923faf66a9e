//! The options of a signature, read and written.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::object::{Object, Read, parse, parts_at, shown};
use super::value;
use crate::canvas::form::{Canvas, Extras, Form};
use crate::canvas::freeze::CanvasError;
use crate::canvas::options::{Inherited, Options, When};

const KNOWN: [&str; 11] = [
    "link",
    "link_error",
    "queue",
    "priority",
    "time_limit",
    "soft_time_limit",
    "countdown",
    "eta",
    "expires",
    "max_retries",
    STAMPED,
];

/// The names of the stamps; each stamp is an option under its name (celery/canvas.py,
/// `Signature.stamp`).
const STAMPED: &str = "stamped_headers";

/// The settings of a canvas in `options`.
#[derive(Default)]
pub(super) struct Settings {
    options: Options,
    link: Vec<Canvas>,
    link_error: Vec<Canvas>,
}

impl Settings {
    /// Returns whether callbacks run after success.
    pub(super) fn has_links(&self) -> bool {
        !self.link.is_empty()
    }

    pub(super) fn on(self, mut canvas: Canvas) -> Canvas {
        if self.options != Options::default() {
            canvas.set_as_celery(&self.options);
        }
        let canvas = self.link.into_iter().fold(canvas, Canvas::link);
        self.link_error.into_iter().fold(canvas, Canvas::link_error)
    }

    /// Splits a chain's settings into those of its first step, of its last step, and of every step
    /// (celery/canvas.py, `_chain.run` and `prepare_steps`).
    pub(super) fn of_steps(self) -> [Self; 3] {
        let first = Self {
            options: self.options,
            ..Self::default()
        };
        let last = Self {
            link: self.link,
            ..Self::default()
        };
        let every = Self {
            link_error: self.link_error,
            ..Self::default()
        };
        [first, last, every]
    }
}

impl Canvas {
    /// Sets options where Celery applies them in the end: those of a chain on its first step, those
    /// of a chord on its body, those of a group on all its members (celery/canvas.py, `_chain.run`,
    /// `_chord.run`, `group._apply_tasks`). Options set outside take precedence
    /// (`Signature._merge`).
    fn set_as_celery(&mut self, options: &Options) {
        match &mut self.form {
            Form::Chain(steps, _) => {
                if let Some(first) = steps.first_mut() {
                    first.set_as_celery(options);
                }
            }
            Form::Group { members, .. } => {
                let members = members.list_mut().iter_mut();
                members.for_each(|member| member.set_as_celery(options));
            }
            Form::Chord { body, .. } => body.set_as_celery(options),
            Form::Task(_) | Form::Each { .. } | Form::Fold(_) | Form::Refused(_) => {
                let extras = self.extras();
                extras.options = extras.options.merged_under(options);
            }
        }
    }

    /// Sets all options on the tasks to which they apply, because Celery passes them on
    /// differently.
    pub(super) fn set_on_tasks(&mut self, inherited: &Inherited) {
        let own = self.extras.as_ref().map(|extras| &extras.options);
        let (options, effective) = inherited.resolve(own.unwrap_or(&Options::default()));
        if let Some(extras) = &mut self.extras {
            extras.options = Options::default();
            extras.stamp_callbacks(&effective.stamps);
            let callbacks = extras.link.iter_mut().chain(&mut extras.link_error);
            callbacks.for_each(|callback| callback.set_on_tasks(&Inherited::default()));
        }
        match &mut self.form {
            Form::Chain(steps, _) => {
                let (timed, others) = Inherited::to_parts(effective);
                for (i, step) in steps.iter_mut().enumerate() {
                    step.set_on_tasks(if i == 0 { &timed } else { &others });
                }
            }
            Form::Group { members, .. } => {
                let inherited = inherited.to_members(options);
                let members = members.list_mut().iter_mut();
                members.for_each(|member| member.set_on_tasks(&inherited));
            }
            Form::Chord { header, body } => {
                let (timed, others) = Inherited::to_parts(effective);
                header.set_on_tasks(&others);
                body.set_on_tasks(&timed);
            }
            Form::Task(_) => {
                if effective != Options::default() {
                    self.extras().options = effective;
                }
            }
            // These cannot be written.
            Form::Each { .. } | Form::Fold(_) | Form::Refused(_) => {}
        }
    }
}

/// Reads the options; `callback` reads the callbacks. A null option is absent (celery/canvas.py,
/// `Signature._merge`).
pub(super) fn read(
    object: &Object<'_>,
    callback: impl Fn(&RawValue) -> Read<Canvas>,
) -> Read<Settings> {
    let mut settings = Settings::default();
    let options = &mut settings.options;
    let stamped = object.0.iter().find(|(name, _)| *name == STAMPED);
    let stamped = stamped.map(|(name, raw)| parse::<Vec<String>>(raw, name, "a list of names"));
    let stamped = stamped.transpose()?.unwrap_or_default();
    for (name, raw) in object.0.iter().filter(|(_, raw)| raw.get() != "null") {
        match name.as_str() {
            "link" => settings.link = callbacks(raw, name, &callback)?,
            "link_error" => settings.link_error = callbacks(raw, name, &callback)?,
            "queue" => options.queue = Some(parse::<String>(raw, name, "a text")?.into()),
            "priority" => {
                let priority = parse(raw, name, "a number from 0 to 9")?;
                if priority > 9 {
                    return Err(wrong(raw, name, "a number from 0 to 9"));
                }
                options.priority = Some(priority);
            }
            "time_limit" => options.time_limit = Some(limit(raw, name)?),
            "soft_time_limit" => options.soft_time_limit = Some(limit(raw, name)?),
            // It takes precedence over an `eta` (celery/app/amqp.py, `as_task_v2`).
            "countdown" => options.eta = Some(When::In(seconds(raw, name, SECONDS)?)),
            "eta" if options.eta.is_some() => {}
            "eta" => options.eta = Some(When::At(time(raw, name, "a time in ISO 8601")?)),
            "expires" => options.expires = Some(expires(raw, name)?),
            "max_retries" => {
                options.max_retries = Some(parse(raw, name, "a whole number, 0 or more")?);
            }
            STAMPED => {}
            name if stamped.iter().any(|stamp| stamp == name) => {
                // (Celery's stamps may be any value.)
                let value = serde_json::from_str(raw.get());
                let value = value.unwrap_or_else(|_| raw.get().to_owned());
                options.stamps.set(name.to_owned(), value);
            }
            _ => {
                return Err(CanvasError::at_top(&format!(
                    "unknown option `{name}`; there can be {}",
                    KNOWN.join(", ")
                )));
            }
        }
    }
    Ok(settings)
}

const SECONDS: &str = "a number of seconds";

/// Reads one signature or a list of them.
fn callbacks(
    raw: &RawValue,
    name: &str,
    callback: impl Fn(&RawValue) -> Read<Canvas>,
) -> Read<Vec<Canvas>> {
    if raw.get().starts_with('{') {
        let only = callback(raw).map_err(|error| error.within(&format!("{name}[0]")))?;
        return Ok(vec![only]);
    }
    parts_at(raw, name, name, callback)
}

fn limit(raw: &RawValue, name: &str) -> Result<Duration, CanvasError> {
    const EXPECTED: &str = "a number of seconds above 0";
    let limit = seconds(raw, name, EXPECTED)?;
    if limit.is_zero() {
        return Err(wrong(raw, name, EXPECTED));
    }
    Ok(limit)
}

/// Reads seconds with a fraction; a negative number is in the past and counts as 0.
fn seconds(raw: &RawValue, name: &str, expected: &str) -> Result<Duration, CanvasError> {
    let seconds: f64 = parse(raw, name, expected)?;
    Duration::try_from_secs_f64(seconds.max(0.0)).map_err(|_| wrong(raw, name, expected))
}

fn expires(raw: &RawValue, name: &str) -> Result<When, CanvasError> {
    const EXPECTED: &str = "a number of seconds or a time in ISO 8601";
    if raw.get().starts_with(['"', '{']) {
        time(raw, name, EXPECTED).map(When::At)
    } else {
        seconds(raw, name, EXPECTED).map(When::In)
    }
}

/// Reads a time from a text or a tagged datetime, in milliseconds since the epoch. A time without
/// an offset is in UTC, Celery's default.
fn time(raw: &RawValue, name: &str, expected: &str) -> Result<u64, CanvasError> {
    let text = match value::datetime(raw) {
        Some(text) => text,
        None => parse(raw, name, expected)?,
    };
    let time = text.parse::<Timestamp>().or_else(|_| {
        let local: DateTime = text.parse()?;
        local.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let time = time.map_err(|_| wrong(raw, name, expected))?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

fn wrong(raw: &RawValue, name: &str, expected: &str) -> CanvasError {
    CanvasError::at_top(&format!(
        "`{name}` must be {expected}, but is {}",
        shown(raw)
    ))
}

/// Writes the options; `callback` writes the callbacks.
pub(super) fn write(
    extras: &Extras,
    callback: impl Fn(&Canvas) -> Result<Value, CanvasError>,
) -> Result<Value, CanvasError> {
    let Options {
        queue,
        priority,
        max_retries,
        time_limit,
        soft_time_limit,
        eta,
        expires,
        rate_limit,
        limit_key,
        stamps,
    } = &extras.options;
    if rate_limit.is_some() || limit_key.is_some() {
        return Err(CanvasError::at_top(
            "Celery's JSON has no rate_limit or limit_key of a signature",
        ));
    }
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value);
        }
    };
    let names: Vec<Value> = stamps.iter().map(|(name, _)| name.into()).collect();
    put(STAMPED, (!names.is_empty()).then(|| names.into()));
    for (name, value) in stamps.iter() {
        put(name, Some(value.into()));
    }
    put("queue", queue.as_deref().map(Value::from));
    put("priority", priority.map(Value::from));
    put("max_retries", max_retries.map(Value::from));
    put("time_limit", time_limit.map(number));
    put("soft_time_limit", soft_time_limit.map(number));
    match eta {
        Some(When::In(delay)) => put("countdown", Some(number(*delay))),
        Some(When::At(ms)) => put("eta", Some(iso(*ms)?)),
        None => {}
    }
    match expires {
        Some(When::In(delay)) => put("expires", Some(number(*delay))),
        Some(When::At(ms)) => put("expires", Some(iso(*ms)?)),
        None => {}
    }
    for (name, callbacks) in [("link", &extras.link), ("link_error", &extras.link_error)] {
        let written = callbacks.iter().enumerate().map(|(i, canvas)| {
            callback(canvas).map_err(|refusal| refusal.within(&format!("{name}[{i}]")))
        });
        let written = written.collect::<Result<Vec<_>, _>>()?;
        put(name, (!written.is_empty()).then(|| written.into()));
    }
    Ok(map.into())
}

/// Writes seconds, as an integer if they are whole.
fn number(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => duration.as_secs().into(),
        _ => Number::from_f64(duration.as_secs_f64()).map_or(Value::Null, Value::Number),
    }
}

fn iso(ms: u64) -> Result<Value, CanvasError> {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .ok_or_else(|| CanvasError::at_top("a time after the year 9999 has no ISO 8601 form"))?;
    Ok(time.to_string().into())
}
