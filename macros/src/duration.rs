//! Durations as users write them: `"45s"`, `"1m30s"`, `"1.5h"`.

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A hundred years. A longer duration is a mistake, and could overflow a clock.
const MAX_MS: u64 = 36_500 * 86_400_000;

/// Parses `text` to milliseconds; the error names the mistake and the correct form.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("it is empty; write a number and a unit, such as \"30s\" or \"1m30s\"".into());
    }
    let mut rest = text;
    let mut total_ms = 0_u64;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
        let unit_ms = check_part(number, unit)?;
        if unit_ms >= smallest {
            return Err(format!(
                "`{unit}` comes after a unit that is not larger; write units from large to small, each once, such as \"1m30s\""
            ));
        }
        smallest = unit_ms;
        total_ms = part_ms(number, unit, unit_ms)?
            .checked_add(total_ms)
            .filter(|ms| *ms <= MAX_MS)
            .ok_or_else(too_long)?;
        rest = after;
    }
    Ok(total_ms)
}

/// Returns the unit of one part such as `30s`, or an error that names the missing piece.
fn check_part(number: &str, unit: &str) -> Result<u64, String> {
    if number.is_empty() {
        return Err(format!(
            "a number must come before `{unit}`; write a number and a unit, without sign or spaces, such as \"30s\" or \"1m30s\""
        ));
    }
    if unit.is_empty() {
        return Err(format!(
            "`{number}` has no unit; write \"{number}s\" for seconds (units: ms, s, m, h, d)"
        ));
    }
    UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, unit_ms)| *unit_ms)
        .ok_or_else(|| {
            let hint = if unit.contains(char::is_whitespace) {
                ", without spaces"
            } else {
                ""
            };
            format!(
                "unknown unit `{unit}`; use ms, s, m, h or d{hint}, such as \"30s\" or \"1m30s\""
            )
        })
}

/// Multiplies a decimal such as `1.5` by its unit, exactly.
fn part_ms(number: &str, unit: &str, unit_ms: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(format!(
            "`{number}` is not a number; write it like 1.5 or 30"
        ));
    }
    let finer =
        || format!("`{number}{unit}` is finer than a millisecond, which is the smallest step");
    let whole: u64 = whole.parse().map_err(|_| too_long())?;
    let fraction = match fraction.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    // No unit has more than eight digits, so a longer fraction is never a whole number of
    // milliseconds.
    let scale = match u32::try_from(fraction.len()) {
        Ok(digits @ ..=9) => 10_u64.pow(digits),
        _ => return Err(finer()),
    };
    let fraction: u64 = fraction.parse().map_err(|_| finer())?;
    if !(fraction * unit_ms).is_multiple_of(scale) {
        return Err(finer());
    }
    whole
        .checked_mul(unit_ms)
        .and_then(|ms| ms.checked_add(fraction * unit_ms / scale))
        .ok_or_else(too_long)
}

fn too_long() -> String {
    "it is longer than 36500d (a hundred years)".into()
}

/// Splits `text` after its leading run of `wanted` characters.
fn split(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !wanted(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn a_number_and_a_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("1s", 1_000),
            ("2m", 120_000),
            ("3h", 10_800_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("007s", 7_000),
            ("36500d", 36_500 * 86_400_000),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn sums_go_from_large_to_small() {
        assert_eq!(parse_ms("1m30s"), Ok(90_000));
        assert_eq!(parse_ms("1d2h3m4s5ms"), Ok(93_784_005));
        for text in ["30s1m", "5s5s", "1ms1s", "1s1s1ms"] {
            let error = parse_ms(text).unwrap_err();
            assert!(error.contains("from large to small"), "{text}: {error}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(parse_ms("1.5s"), Ok(1_500));
        assert_eq!(parse_ms("0.001s"), Ok(1));
        assert_eq!(parse_ms("1.10s"), Ok(1_100));
        assert_eq!(parse_ms("0.25d"), Ok(21_600_000));
        assert_eq!(parse_ms("1.5h0.5m"), Ok(5_430_000));
        assert_eq!(parse_ms("1.000000000000s"), Ok(1_000));
        for text in ["0.5ms", "0.0001s", "1.00000000000001d", "0.3333s"] {
            let error = parse_ms(text).unwrap_err();
            assert!(
                error.contains("finer than a millisecond"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn the_error_for_an_invalid_duration_gives_the_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("30", "`30` has no unit; write \"30s\""),
            ("1m30", "`30` has no unit"),
            ("s", "a number must come before `s`"),
            ("-1s", "a number must come before `-`"),
            (" 1s", "a number must come before ` `"),
            (
                "1 s",
                "unknown unit ` s`; use ms, s, m, h or d, without spaces",
            ),
            (
                "1m 30s",
                "unknown unit `m `; use ms, s, m, h or d, without spaces",
            ),
            ("5sec", "unknown unit `sec`"),
            ("5S", "unknown unit `S`"),
            ("5µs", "unknown unit `µs`"),
            ("1.s", "`1.` is not a number"),
            (".5s", "`.5` is not a number"),
            ("1.2.3s", "`1.2.3` is not a number"),
            (".s", "`.` is not a number"),
            ("36501d", "longer than 36500d"),
            ("36500d1ms", "longer than 36500d"),
            ("99999999999999999999s", "longer than 36500d"),
            ("18446744073709551615d", "longer than 36500d"),
        ] {
            let error = parse_ms(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
