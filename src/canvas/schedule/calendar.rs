//! The times of a calendar schedule: a cron expression in a time zone.

use std::fmt;

use croner::Cron;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::fields::{self, Days};

/// A cron expression in a time zone: a set of instants.
///
/// croner finds the local times, and this decides which instants they are, because croner gives up
/// at a day that a zone skipped (Apia, 30 December 2011) and takes a list of hours for an interval.
#[derive(Clone)]
pub(super) struct Calendar {
    cron: Cron,
    zone: TimeZone,
    /// The field for hours has a star: the schedule follows the time that passes. Otherwise it
    /// names local times, and each of them is one tick.
    is_any_hour: bool,
}

impl Calendar {
    /// Parses an expression in a zone of the IANA database.
    pub(super) fn new(expression: &str, days: Days, zone: &str) -> Result<Self, String> {
        let cron = fields::parse(expression, days)?;
        let zone = TimeZone::get(zone).map_err(|_| {
            format!("`{zone}` is no time zone: write a name such as Europe/Berlin or UTC")
        })?;
        let calendar = Self {
            is_any_hour: fields::has_any_hour(&cron),
            cron,
            zone,
        };
        // Every possible date comes within 400 years, and croner searches further than that.
        match calendar.next_local(DateTime::constant(2000, 1, 1, 0, 0, 0, 0), true) {
            Some(_) => Ok(calendar),
            None => Err(format!(
                "`{expression}` names no date: no month has these days"
            )),
        }
    }

    /// Returns the first tick after `ms`, in milliseconds since the Unix epoch.
    pub(super) fn next_after(&self, ms: u64) -> Option<u64> {
        let after = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        let tick = match self.is_any_hour {
            true => self.next_elapsed(after),
            false => self.next_named(after),
        };
        u64::try_from(tick?.as_millisecond()).ok()
    }

    /// Returns the first instant after `after` that shows one of the local times. Local times that
    /// are skipped have none; those that are repeated have two.
    fn next_elapsed(&self, after: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(after);
        let mut local = self.next_local(offset.to_datetime(after), false)?;
        for change in self.zone.following(after) {
            let tick = offset.to_timestamp(local).ok()?;
            if tick < change.timestamp() {
                return Some(tick);
            }
            offset = change.offset();
            local = self.next_local(offset.to_datetime(change.timestamp()), true)?;
        }
        offset.to_timestamp(local).ok()
    }

    /// Returns the first instant after `after` of a local time. A skipped local time comes when the
    /// gap ends, a repeated one when it comes first.
    fn next_named(&self, after: Timestamp) -> Option<Timestamp> {
        let mut local = self.zone.to_datetime(after);
        loop {
            local = self.next_local(local, false)?;
            let tick = self.instant_of(local)?;
            if tick > after {
                return Some(tick);
            }
        }
    }

    fn instant_of(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        let AmbiguousOffset::Gap { before, after } = ambiguous.offset() else {
            return ambiguous.compatible().ok();
        };
        let (from, to) = (
            after.to_timestamp(local).ok()?,
            before.to_timestamp(local).ok()?,
        );
        let mut changes = self.zone.following(from);
        let change = changes.find(|change| change.offset() == after)?;
        (change.timestamp() <= to).then(|| change.timestamp())
    }

    /// Returns the next local time of the expression.
    fn next_local(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&from, inclusive).ok()
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("?");
        write!(f, "{} in {zone}", self.cron.pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: &str) -> u64 {
        let time: Timestamp = time.parse().expect(time);
        time.as_millisecond().cast_unsigned()
    }

    fn ticks(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let calendar = Calendar::new(expression, Days::Either, zone).unwrap();
        let first = calendar.next_after(ms(from));
        std::iter::successors(first, |tick| calendar.next_after(*tick))
            .take(count)
            .map(|tick| {
                let tick = Timestamp::from_millisecond(tick.cast_signed()).unwrap();
                tick.to_string()
            })
            .collect()
    }

    /// In Berlin the clock went from 02:00 to 03:00 on 31 March 2024, 01:00 UTC, and from 03:00 to
    /// 02:00 on 27 October, 01:00 UTC.
    #[test]
    fn a_named_hour_runs_once_on_the_days_of_both_changes() {
        let daily = |from| ticks("30 2 * * *", "Europe/Berlin", from, 3);
        let spring = daily("2024-03-30T00:00:00Z");
        let expected = [
            "2024-03-30T01:30:00Z",
            "2024-03-31T01:00:00Z",
            "2024-04-01T00:30:00Z",
        ];
        assert_eq!(spring, expected, "a skipped time comes when the gap ends");
        let autumn = daily("2024-10-26T00:00:00Z");
        let expected = [
            "2024-10-26T00:30:00Z",
            "2024-10-27T00:30:00Z",
            "2024-10-28T01:30:00Z",
        ];
        assert_eq!(autumn, expected, "a repeated time comes the first time");
        // All skipped times of a list are one tick, and the end of the gap is no second one.
        let list = ticks("*/20 2,3 * * *", "Europe/Berlin", "2024-03-31T00:00:00Z", 4);
        let expected = [
            "2024-03-31T01:00:00Z",
            "2024-03-31T01:20:00Z",
            "2024-03-31T01:40:00Z",
            "2024-04-01T00:00:00Z",
        ];
        assert_eq!(list, expected);
        // From within the hour that is repeated.
        let later = daily("2024-10-27T01:10:00Z");
        assert_eq!(later[0], "2024-10-28T01:30:00Z");
    }

    #[test]
    fn any_hour_follows_the_time_that_passes() {
        let spring = ticks("30 * * * *", "Europe/Berlin", "2024-03-31T00:00:00Z", 3);
        let expected = [
            "2024-03-31T00:30:00Z",
            "2024-03-31T01:30:00Z",
            "2024-03-31T02:30:00Z",
        ];
        assert_eq!(spring, expected);
        let autumn = ticks("30 */2 * * *", "Europe/Berlin", "2024-10-26T22:00:00Z", 4);
        let expected = [
            "2024-10-26T22:30:00Z",
            "2024-10-27T00:30:00Z",
            "2024-10-27T01:30:00Z",
            "2024-10-27T03:30:00Z",
        ];
        assert_eq!(autumn, expected, "02:30 comes twice");
    }

    #[test]
    fn leap_days_come_in_leap_years_alone() {
        let days = ticks("0 0 29 2 *", "UTC", "2095-01-01T00:00:00Z", 3);
        let expected = [
            "2096-02-29T00:00:00Z",
            "2104-02-29T00:00:00Z",
            "2108-02-29T00:00:00Z",
        ];
        assert_eq!(days, expected);
        let error = Calendar::new("0 0 30 2 *", Days::Either, "UTC").unwrap_err();
        assert_eq!(error, "`0 0 30 2 *` names no date: no month has these days");
    }

    #[test]
    fn a_day_that_a_zone_skips_comes_when_it_ends() {
        let days = ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3);
        // 30 December 2011 was skipped: its noon comes at midnight, at the end of the gap.
        let expected = [
            "2011-12-29T22:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T22:00:00Z",
        ];
        assert_eq!(days, expected);
    }

    #[test]
    fn days_of_both_fields_are_either_or_both() {
        let days = |days| {
            let calendar = Calendar::new("0 0 13 * 5", days, "UTC").unwrap();
            calendar.next_after(ms("2024-01-01T00:00:00Z")).unwrap()
        };
        assert_eq!(days(Days::Either), ms("2024-01-05T00:00:00Z"));
        assert_eq!(days(Days::Both), ms("2024-09-13T00:00:00Z"));
    }

    #[test]
    fn an_unknown_zone_is_named() {
        for zone in ["Europe/Berlim", "", "CEST+99", "../etc"] {
            let error = Calendar::new("* * * * *", Days::Either, zone).unwrap_err();
            let expected = format!("`{zone}` is no time zone: ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    /// Zones with changes of an hour, of half an hour and of two, at midnight, of neither half of
    /// the year, and at dates that a government chose.
    const ZONES: [&str; 52] = [
        "UTC",
        "Europe/Berlin",
        "Europe/London",
        "Europe/Dublin",
        "Europe/Lisbon",
        "Europe/Moscow",
        "Europe/Istanbul",
        "Europe/Volgograd",
        "Atlantic/Azores",
        "Atlantic/Stanley",
        "America/New_York",
        "America/Chicago",
        "America/Denver",
        "America/Phoenix",
        "America/Los_Angeles",
        "America/Anchorage",
        "America/St_Johns",
        "America/Nuuk",
        "America/Scoresbysund",
        "America/Havana",
        "America/Caracas",
        "America/Sao_Paulo",
        "America/Asuncion",
        "America/Santiago",
        "America/Punta_Arenas",
        "America/Argentina/San_Luis",
        "America/Mexico_City",
        "America/Montevideo",
        "Africa/Cairo",
        "Africa/Casablanca",
        "Africa/Windhoek",
        "Africa/Juba",
        "Africa/Tripoli",
        "Asia/Gaza",
        "Asia/Jerusalem",
        "Asia/Beirut",
        "Asia/Tehran",
        "Asia/Kabul",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Asia/Dhaka",
        "Asia/Pyongyang",
        "Asia/Tokyo",
        "Asia/Kamchatka",
        "Antarctica/Troll",
        "Antarctica/Casey",
        "Australia/Lord_Howe",
        "Australia/Adelaide",
        "Pacific/Chatham",
        "Pacific/Apia",
        "Pacific/Fakaofo",
        "Pacific/Kiritimati",
    ];

    /// Every local time of every day is checked against a count without croner: what jiff says that
    /// each minute shows.
    #[test]
    fn over_20_years_each_named_time_comes_once_a_day() {
        let start = ms("2006-01-01T00:00:00Z");
        let end = ms("2026-01-01T00:00:00Z");
        for zone in ZONES {
            let tz = TimeZone::get(zone).expect(zone);
            let offset_ms = |at: u64| {
                let at = Timestamp::from_millisecond(at.cast_signed()).unwrap();
                i64::from(tz.to_offset(at).seconds()) * 1_000
            };
            for (hour, minute) in [(0, 0), (2, 30)] {
                let expression = format!("{minute} {hour} * * *");
                let calendar = Calendar::new(&expression, Days::Either, zone).unwrap();
                let of_day = (hour * 60 + minute) * 60_000_i64;
                let mut at = start;
                let mut day = (start.cast_signed() + offset_ms(start)).div_euclid(86_400_000);
                if (start.cast_signed() + offset_ms(start)).rem_euclid(86_400_000) < of_day {
                    day -= 1;
                }
                while let Some(tick) = calendar.next_after(at).filter(|tick| *tick < end) {
                    // The local time that this tick is for, and the first instant at which the
                    // local clock shows it or a later time.
                    day += 1;
                    let named = day * 86_400_000 + of_day;
                    let shows = |at: u64| at.cast_signed() + offset_ms(at);
                    assert!(shows(tick) >= named, "{zone} {expression} {tick}");
                    assert!(
                        shows(tick - 1_000) < named,
                        "{zone} {expression}: {tick} is late, or comes again"
                    );
                    // The same time of a second day that was skipped is the same tick.
                    while (day + 1) * 86_400_000 + of_day <= shows(tick) {
                        day += 1;
                    }
                    assert!(tick > at);
                    at = tick;
                }
                let last = (end.cast_signed() + offset_ms(end)).div_euclid(86_400_000);
                assert!((last - 2..=last).contains(&day), "{zone}: days are missing");
            }
        }
    }

    #[test]
    fn around_each_change_of_20_years_any_hour_comes_whenever_the_clock_shows_it() {
        let start: Timestamp = "2006-01-01T00:00:00Z".parse().unwrap();
        let end: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for zone in ZONES {
            let tz = TimeZone::get(zone).expect(zone);
            let half = Calendar::new("30 * * * *", Days::Either, zone).unwrap();
            let changes = tz
                .following(start)
                .take_while(|change| change.timestamp() < end);
            for change in changes {
                let from = change.timestamp().as_millisecond().cast_unsigned() - 5 * 3_600_000;
                let to = from + 10 * 3_600_000;
                let expected: Vec<u64> = (from / 60_000 + 1..=to / 60_000)
                    .map(|minute| minute * 60_000)
                    .filter(|at| {
                        let at = Timestamp::from_millisecond(at.cast_signed()).unwrap();
                        tz.to_datetime(at).minute() == 30
                    })
                    .collect();
                let first = half.next_after(from);
                let found: Vec<u64> = std::iter::successors(first, |tick| half.next_after(*tick))
                    .take_while(|tick| *tick <= to)
                    .collect();
                assert_eq!(found, expected, "{zone} {}", change.timestamp());
            }
        }
    }
}
