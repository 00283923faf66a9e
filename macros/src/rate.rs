//! Rates as users write them: `"10/m"`, `"100/15s"`. `RateLimit` of chordal reads the same texts.

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A longer period is a mistake, and its starts would have to be remembered as long.
const MAX_PERIOD_MS: u64 = 366 * 86_400_000;

/// A number of starts in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) starts: u32,
    pub(crate) period_ms: u64,
}

/// Parses a rate; the error names the mistake and the correct form.
pub(crate) fn parse(text: &str) -> Result<Rate, String> {
    let Some((starts, period)) = text.split_once('/') else {
        return Err("write starts and a period, such as \"10/s\", \"10/m\" or \"100/15s\"".into());
    };
    let starts = match whole(starts) {
        Some(0) => return Err("it allows no start".into()),
        Some(starts) => starts,
        None => {
            return Err(format!(
                "`{starts}` is not a whole number of starts from 1 to 4294967295; for fewer than one write a longer period, such as \"1/2s\""
            ));
        }
    };
    let unit_at = period.find(|c: char| !c.is_ascii_digit());
    let (count, unit) = period.split_at(unit_at.unwrap_or(period.len()));
    let Some((_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "`{period}` is not a period; write a unit (ms, s, m, h or d), or a whole number and a unit, such as \"15s\""
        ));
    };
    let count = match count {
        "" => Some(1),
        count => whole(count),
    };
    let period_ms = count.map(|count| u64::from(count) * unit_ms);
    match period_ms {
        Some(period_ms @ 1..=MAX_PERIOD_MS) => Ok(Rate { starts, period_ms }),
        _ => Err(format!("`{period}` is not between 1 ms and 366 days")),
    }
}

/// Reads a whole number without a sign.
fn whole(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_starts_and_a_period() {
        for (text, starts, period_ms) in [
            ("10/s", 10, 1_000),
            ("10/m", 10, 60_000),
            ("100/15s", 100, 15_000),
            ("1/366d", 1, MAX_PERIOD_MS),
        ] {
            assert_eq!(parse(text), Ok(Rate { starts, period_ms }), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_mistake() {
        for (text, expected) in [
            ("10", "write starts and a period"),
            ("0/s", "it allows no start"),
            ("0.5/s", "for fewer than one write a longer period"),
            ("/s", "`` is not a whole number"),
            ("+1/s", "`+1` is not a whole number"),
            ("10/min", "`min` is not a period"),
            ("10/", "`` is not a period"),
            ("10/1.5s", "`1.5s` is not a period"),
            ("10/0s", "`0s` is not between"),
            ("10/367d", "`367d` is not between"),
            ("10/4294967296s", "is not between"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
