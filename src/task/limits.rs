//! The limits of an app on what starts: those of single tasks, those that tasks share, and the keys
//! that queues serve in turn.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::name_length::refuse_long_name;
use crate::canvas::admission::start_limits::{LimitName, Rule};
use crate::canvas::breaker::Breaker;
use crate::canvas::rate_limit::RateLimit;
use crate::error::{Result, StartError};

/// The limits that tasks share by name, and the queues that serve keys in turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedLimits {
    /// The rate of each limit; the error of one that is refused.
    pub(crate) rates: BTreeMap<String, Result<RateLimit, String>>,
    /// How many attempts run at once under each limit.
    pub(crate) concurrency: BTreeMap<String, u32>,
    /// The queues that serve keys in turn, and the parameter that is the key.
    pub(crate) fair: BTreeMap<String, String>,
    /// The circuit breakers that tasks name.
    pub(crate) breakers: BTreeMap<String, Breaker>,
}

/// A limit as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredLimit {
    pub(crate) name: LimitName,
    pub(crate) rule: Rule,
    /// The parameter whose argument is the key of the limit, which is divided by keys.
    pub(crate) by: Option<Cow<'static, str>>,
}

impl SharedLimits {
    /// Refuses a limit that no task could meet.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, rate) in &self.rates {
            refuse_long_name("limit", name, "")?;
            rate.clone()
                .and_then(RateLimit::check)
                .map_err(|reason| invalid(name, reason))?;
        }
        for (name, concurrency) in &self.concurrency {
            refuse_long_name("limit", name, "")?;
            if *concurrency == 0 {
                let reason = "a concurrency limit lets at least 1 attempt run".to_owned();
                return Err(invalid(name, reason).into());
            }
        }
        for (name, breaker) in &self.breakers {
            refuse_long_name("breaker", name, "")?;
            breaker
                .check()
                .map_err(|reason| StartError::InvalidBreaker {
                    name: name.clone(),
                    reason,
                })?;
        }
        for queue in self.fair.keys() {
            refuse_long_name("queue", queue, "")?;
        }
        Ok(())
    }

    /// Returns whether a limit has this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.rates.contains_key(name) || self.concurrency.contains_key(name)
    }

    /// Returns all limits.
    pub(crate) fn declared(&self) -> impl Iterator<Item = DeclaredLimit> {
        let rates = self.rates.iter().filter_map(|(name, rate)| {
            let rule = Rule::Rate(*rate.as_ref().ok()?);
            Some((LimitName::Named(name.clone()), rule, None))
        });
        let concurrency = self.concurrency.iter().map(|(name, of)| {
            let rule = Rule::Concurrency(*of);
            (LimitName::Named(name.clone()), rule, None)
        });
        let fair = self.fair.iter().map(|(queue, parameter)| {
            let by = Some(Cow::Owned(parameter.clone()));
            (LimitName::Queue(queue.clone()), Rule::Turns, by)
        });
        let all = rates.chain(concurrency).chain(fair);
        all.map(|(name, rule, by)| DeclaredLimit { name, rule, by })
    }
}

fn invalid(name: &str, reason: String) -> StartError {
    StartError::InvalidLimit {
        name: name.to_owned(),
        reason,
    }
}
