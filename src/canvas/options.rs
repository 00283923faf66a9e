//! Options of a signature as called.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::time::{Moment, Scale};

/// Options of one signature; what is `None` is as registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) queue: Option<Cow<'static, str>>,
    pub(crate) priority: Option<u8>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) soft_time_limit: Option<Duration>,
    /// No attempt starts before this.
    pub(crate) eta: Option<When>,
    /// No attempt starts from this on.
    pub(crate) expires: Option<When>,
}

/// A point in time, or the end of a delay. However the clock is set, a delay lasts as long as it says, and
/// a point in time is when the clock shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum When {
    /// This long after the task could have started at once: in a chain, when the step before it
    /// has ended.
    In(Duration),
    /// Milliseconds since the Unix epoch.
    At(u64),
}

impl When {
    pub(crate) fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::At(since.as_millis() as u64)
    }

    /// The moment that this is; a delay counts from `since_ms` on, on the steady scale.
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

impl Options {
    /// Says whether a delay, or a deadline, counts from when the task could have started.
    pub(crate) fn counts(&self) -> bool {
        let times = [self.eta, self.expires];
        times.iter().any(|time| matches!(time, Some(When::In(_))))
    }

    /// On which scale the deadline is, if there is one.
    pub(crate) fn expires_on(&self) -> Scale {
        self.expires.map_or(Scale::Steady, When::scale)
    }

    /// Celery's merge: what is set on the outside (the call, the enclosing group) wins
    /// (celery/canvas.py, `Signature._merge`).
    pub(crate) fn merged_under(&self, outer: &Self) -> Self {
        Self {
            queue: outer.queue.clone().or_else(|| self.queue.clone()),
            priority: outer.priority.or(self.priority),
            max_retries: outer.max_retries.or(self.max_retries),
            time_limit: outer.time_limit.or(self.time_limit),
            soft_time_limit: outer.soft_time_limit.or(self.soft_time_limit),
            eta: outer.eta.or(self.eta),
            expires: outer.expires.or(self.expires),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_options_win_and_the_others_stay() {
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
