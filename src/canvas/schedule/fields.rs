//! The fields of a cron expression: their names, their allowed values, and the parsing of all of
//! them into one pattern.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// A field of a cron expression.
struct Field {
    name: &'static str,
    allowed: &'static str,
    /// The words and letters that croner may replace in this field. croner itself replaces them
    /// everywhere, and would take `MON` for minute 1.
    words: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field {
        name: "second",
        allowed: "0 to 59",
        words: &[],
    },
    Field {
        name: "minute",
        allowed: "0 to 59",
        words: &[],
    },
    Field {
        name: "hour",
        allowed: "0 to 23",
        words: &[],
    },
    Field {
        name: "day of month",
        allowed: "1 to 31, L (the last day) or 15W (the weekday nearest to the 15th)",
        words: &["L", "W", "?"],
    },
    Field {
        name: "month",
        allowed: "1 to 12 or JAN to DEC",
        words: &[
            "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
        ],
    },
    Field {
        name: "day of week",
        allowed: "0 to 7 or SUN to SAT (0 and 7 are Sunday), 5L (the last Friday) or 5#2 (the second)",
        words: &[
            "SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L", "#", "?",
        ],
    },
];

const FORMS: &str = "each may be a list such as 1,2, a range such as 1-5, or a step such as */5";

/// The names that stand for an expression.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// How the fields for days combine if both name days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Days {
    /// A day that either names, as in cron.
    Either,
    /// A day that both name, as in Celery's `crontab`.
    Both,
}

/// Parses an expression of five fields, or of six with seconds, or a nickname. The error says what
/// is wrong, with the field and its allowed values.
pub(super) fn parse(text: &str, days: Days) -> Result<Cron, String> {
    let mut expression = text.trim();
    if expression.starts_with('@') {
        let known = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(expression));
        let Some((_, fields)) = known else {
            let names = NICKNAMES.map(|(name, _)| name).join(", ");
            return Err(format!(
                "`{expression}` is no nickname: the nicknames are {names}"
            ));
        };
        expression = fields;
    }
    let values: Vec<_> = expression.split_whitespace().collect();
    let fields = match values.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => {
            return Err(format!(
                "`{text}` has {count} fields: write minute, hour, day of month, month and day of week, \
                 or second before these"
            ));
        }
    };
    for (field, value) in fields.iter().zip(&values) {
        field.check(value)?;
    }
    parser(days)
        .parse(expression)
        .map_err(|error| format!("`{text}`: {error}"))
}

fn parser(days: Days) -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .dom_and_dow(days == Days::Both)
        .build()
}

impl Field {
    /// Refuses a value that the field may not have.
    fn check(&self, value: &str) -> Result<(), String> {
        let Self { name, allowed, .. } = self;
        match self.is_valid(value) {
            true => Ok(()),
            false => Err(format!(
                "`{value}` is no {name}: allowed are {allowed}; {FORMS}"
            )),
        }
    }

    fn is_valid(&self, value: &str) -> bool {
        let upper = value.to_ascii_uppercase();
        if upper.split(',').any(str::is_empty) {
            return false;
        }
        let mut rest = upper;
        for word in self.words {
            rest = rest.replace(word, "");
        }
        if rest.contains(|c: char| !c.is_ascii_digit() && !"*,-/".contains(c)) {
            return false;
        }
        let at = FIELDS.iter().position(|field| field.name == self.name);
        let mut alone = ["*"; 6];
        alone[at.expect("it is one of them")] = value;
        parser(Days::Either).parse(&alone.join(" ")).is_ok()
    }
}

/// Returns whether the field for hours names no hours: it is a star, or a star with a step.
pub(super) fn has_any_hour(cron: &Cron) -> bool {
    let expression = cron.pattern.as_str();
    let values: Vec<_> = expression.split_whitespace().collect();
    let hour = values.len().checked_sub(4).and_then(|at| values.get(at));
    hour.is_some_and(|hour| hour.contains('*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_field_is_named_with_its_allowed_values() {
        for (text, reason) in [
            ("60 * * * *", "`60` is no minute: allowed are 0 to 59;"),
            ("* 24 * * *", "`24` is no hour: allowed are 0 to 23;"),
            ("* 22-2 * * *", "`22-2` is no hour: allowed are 0 to 23;"),
            ("* * 0 * *", "`0` is no day of month: allowed are 1 to 31"),
            ("* * 32 * *", "`32` is no day of month: allowed are 1 to 31"),
            (
                "* * * 13 *",
                "`13` is no month: allowed are 1 to 12 or JAN to DEC;",
            ),
            (
                "* * * * 8",
                "`8` is no day of week: allowed are 0 to 7 or SUN to SAT",
            ),
            ("60 * * * * *", "`60` is no second: allowed are 0 to 59;"),
            ("MON * * * *", "`MON` is no minute"),
            ("* JAN * * *", "`JAN` is no hour"),
            ("* * * MON *", "`MON` is no month"),
            ("* * * * JAN", "`JAN` is no day of week"),
            ("1,,2 * * * *", "`1,,2` is no minute"),
            (", * * * *", "`,` is no minute"),
            ("*/0 * * * *", "`*/0` is no minute"),
            ("*/x * * * *", "`*/x` is no minute"),
            ("-5 * * * *", "`-5` is no minute"),
            ("1- * * * *", "`1-` is no minute"),
            ("1.5 * * * *", "`1.5` is no minute"),
            ("L * * * *", "`L` is no minute"),
            ("* * * * 5#6", "`5#6` is no day of week"),
            (
                "* * * *",
                "`* * * *` has 4 fields: write minute, hour, day of month",
            ),
            ("* * * * * * *", "has 7 fields"),
            ("", "`` has 0 fields"),
            (
                "@reboot",
                "`@reboot` is no nickname: the nicknames are @yearly, ",
            ),
            ("@", "`@` is no nickname"),
            ("@daily 5", "`@daily 5` is no nickname"),
        ] {
            let error = parse(text, Days::Either).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn expressions_of_all_forms_are_read() {
        for text in [
            "0 3 * * *",
            "*/5 8-18 1,15 JAN-MAR mon-fri",
            "30 0 3 * * 7",
            "0 0 L * ?",
            "0 0 15W * *",
            "0 0 * * FRI#2",
            "0 0 * * 5L",
            "0-30/10 * * * *",
            " @Hourly ",
            "@yearly",
            "@midnight",
        ] {
            parse(text, Days::Either).expect(text);
        }
    }

    #[test]
    fn hours_that_are_named_are_told_from_any_hour() {
        for (text, any) in [
            ("0 * * * *", true),
            ("0 */2 * * *", true),
            ("*/5 2 * * *", false),
            ("0 0-23 * * *", false),
            ("* 0 * * * *", true),
            ("* * 0 * * *", false),
            ("0 0 * * * *", true),
            ("@hourly", true),
            ("@daily", false),
        ] {
            let cron = parse(text, Days::Either).unwrap();
            assert_eq!(has_any_hour(&cron), any, "{text}");
        }
    }
}
