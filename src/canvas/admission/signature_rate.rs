//! The keys of the rates that signatures set: a key names the task, the rate, and the key of the task
//! for its limits. So a rate needs no declaration, and is forgotten with its last starts.

use crate::canvas::rate_limit::RateLimit;

/// Returns the key of the starts of a task under a rate of its signature. `limit_key` is that of the
/// task, or empty.
pub(crate) fn key(task: &str, rate: RateLimit, limit_key: &str) -> String {
    let (starts, period_ms, burst) = (rate.starts(), rate.period_ms(), rate.burst_size());
    // (A name may have any character, and so stands at the end with its length.)
    let length = task.len();
    format!("{starts}/{period_ms}/{burst}/{length}/{task}{limit_key}")
}

/// Returns the rate that a key names; `None` if it is no key of a rate.
pub(crate) fn of_key(key: &str) -> Option<RateLimit> {
    let mut parts = key.splitn(4, '/');
    let starts = parts.next()?.parse().ok()?;
    let period_ms = parts.next()?.parse().ok()?;
    let rate = RateLimit::of_stored(starts, period_ms, parts.next()?.parse().ok()?);
    rate.check().is_ok().then_some(rate)
}

/// Returns the key of the task for its limits that is part of a key, if there is one.
pub(crate) fn limit_key_of(key: &str) -> Option<String> {
    let mut parts = key.splitn(5, '/').skip(3);
    let length: usize = parts.next()?.parse().ok()?;
    let limit_key = parts.next()?.get(length..)?;
    (!limit_key.is_empty()).then(|| limit_key.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_names_its_rate_and_belongs_to_one_task() {
        let rate = RateLimit::new(10, Duration::from_millis(1_500)).burst(3);
        assert_eq!(key("mail.send", rate, "acme"), "10/1500/3/9/mail.sendacme");
        for task in ["mail.send", "", "a/b", "7"] {
            for limit_key in ["", "acme", "/"] {
                let key = key(task, rate, limit_key);
                assert_eq!(of_key(&key), Some(rate));
                assert_eq!(limit_key_of(&key).unwrap_or_default(), limit_key);
            }
        }
        assert_ne!(key("a", rate, "bc"), key("ab", rate, "c"));
        for wrong in [
            "",
            "10",
            "10/1500",
            "10/1500/3x/",
            "0/1/1/",
            "x/1/1/1/a",
            "10/0/1/1/a",
        ] {
            assert_eq!(of_key(wrong), None, "{wrong}");
        }
    }
}
