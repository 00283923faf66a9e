//! The options of a signature.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::rate_limit::RateLimit;
use super::stamps::Stamps;
use super::time::{Moment, Scale};

/// The maximum length of a queue's or task's name, in bytes, because names are part of store keys.
pub(crate) const MAX_NAME: usize = 255;

/// The options of one signature; `None` means the registered value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) queue: Option<Cow<'static, str>>,
    pub(crate) priority: Option<u8>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) soft_time_limit: Option<Duration>,
    /// No attempt starts before this time.
    pub(crate) eta: Option<When>,
    /// No attempt starts from this time on.
    pub(crate) expires: Option<When>,
    // [Stored](super::stored_options) behind the fields above, which older stores have alone.
    /// A limit besides those with which the task is registered.
    #[serde(skip)]
    pub(crate) rate_limit: Option<RateLimit>,
    /// The key of the task for its limits, in place of an argument.
    #[serde(skip)]
    pub(crate) limit_key: Option<Cow<'static, str>>,
    #[serde(skip)]
    pub(crate) stamps: Stamps,
}

/// The limits on one attempt of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

impl TimeLimits {
    /// Refuses a soft limit above the hard one, because the attempt would be ended before it could
    /// learn of the soft limit (celery/app/task.py, `apply_async`).
    pub(crate) fn check(self) -> Result<(), String> {
        match (self.soft, self.hard) {
            (Some(soft), Some(hard)) if soft > hard => Err(format!(
                "the soft time limit, {soft:?}, is above the time limit, {hard:?}"
            )),
            _ => Ok(()),
        }
    }
}

/// A point in time, or the end of a delay. If the clock is set, a delay keeps its length, and a
/// point in time is reached when the clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum When {
    /// This long after the task could have started at once: in a chain, after the end of the step
    /// before it.
    In(Duration),
    /// Milliseconds since the Unix epoch.
    At(u64),
}

impl When {
    pub(crate) fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::At(since.as_millis() as u64)
    }

    /// Returns the moment; a delay counts from `since_ms` on the steady scale.
    pub(crate) fn from(self, since_ms: u64) -> Moment {
        match self {
            Self::In(delay) => {
                let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                Moment::steady(since_ms.saturating_add(delay))
            }
            Self::At(at_ms) => Moment::wall(at_ms),
        }
    }

    pub(crate) fn scale(self) -> Scale {
        match self {
            Self::In(_) => Scale::Steady,
            Self::At(_) => Scale::Wall,
        }
    }
}

/// The options that a canvas inherits from its surroundings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    /// Set on the group that contains it, or start times set on the canvas that starts with it.
    /// They override its own (celery/canvas.py, `Signature._merge`).
    pub(crate) winning: Options,
    /// Set on the chain, chord or fold that contains it. They apply where it has none of its own.
    pub(crate) fallback: Options,
}

impl Inherited {
    /// Returns the options that a canvas with these own options passes on, and the ones that apply
    /// to it.
    pub(crate) fn resolve(&self, own: &Options) -> (Options, Options) {
        let mut options = own.merged_under(&self.winning);
        let mut effective = self.fallback.merged_under(&options);
        // Of a stamp, the innermost value counts.
        options.stamps = options.stamps.over(&self.fallback.stamps);
        effective.stamps = options.stamps.clone();
        (options, effective)
    }

    /// Returns the options that a group with these options passes on to its members.
    pub(crate) fn to_members(&self, options: Options) -> Self {
        Self {
            winning: options,
            fallback: self.fallback.clone(),
        }
    }

    /// Returns the options that a chain with these effective options passes on to its first step,
    /// which gets the times, and to the others. In a chord the body gets the times.
    pub(crate) fn to_parts(effective: Options) -> (Self, Self) {
        let times = Options {
            eta: effective.eta,
            expires: effective.expires,
            ..Options::default()
        };
        let fallback = Options {
            eta: None,
            expires: None,
            ..effective
        };
        let timed = Self {
            winning: times,
            fallback: fallback.clone(),
        };
        let others = Self {
            winning: Options::default(),
            fallback,
        };
        (timed, others)
    }
}

impl Options {
    /// Returns the limits of a task that is registered with `registered` and called with these
    /// options.
    pub(crate) fn limits_over(&self, registered: TimeLimits) -> TimeLimits {
        TimeLimits {
            soft: self.soft_time_limit.or(registered.soft),
            hard: self.time_limit.or(registered.hard),
        }
    }

    /// Returns whether a delay or a relative deadline counts from the time at which the task could
    /// have started.
    pub(crate) fn counts(&self) -> bool {
        let times = [self.eta, self.expires];
        times.iter().any(|time| matches!(time, Some(When::In(_))))
    }

    /// Returns the scale of the deadline, if there is one.
    pub(crate) fn expires_on(&self) -> Scale {
        self.expires.map_or(Scale::Steady, When::scale)
    }

    /// Merges as Celery does: options set outside (by the call or the enclosing group) take
    /// precedence (celery/canvas.py, `Signature._merge`). Stamps that are set inside stay.
    pub(crate) fn merged_under(&self, outer: &Self) -> Self {
        Self {
            queue: outer.queue.clone().or_else(|| self.queue.clone()),
            priority: outer.priority.or(self.priority),
            max_retries: outer.max_retries.or(self.max_retries),
            time_limit: outer.time_limit.or(self.time_limit),
            soft_time_limit: outer.soft_time_limit.or(self.soft_time_limit),
            eta: outer.eta.or(self.eta),
            expires: outer.expires.or(self.expires),
            rate_limit: outer.rate_limit.or(self.rate_limit),
            limit_key: outer.limit_key.clone().or_else(|| self.limit_key.clone()),
            stamps: self.stamps.over(&outer.stamps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_options_take_precedence_and_the_others_stay() {
        let inner = Options {
            queue: Some("inner".into()),
            priority: Some(1),
            ..Options::default()
        };
        let outer = Options {
            priority: Some(9),
            max_retries: Some(2),
            ..Options::default()
        };
        let merged = inner.merged_under(&outer);
        assert_eq!(merged.queue.as_deref(), Some("inner"));
        assert_eq!((merged.priority, merged.max_retries), (Some(9), Some(2)));
    }
}
