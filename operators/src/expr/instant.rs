//! Instant: timestamps as text, as calendar parts, and cut to a unit. Pure integer arithmetic on
//! microseconds since 1970 in UTC; days follow the proleptic Gregorian calendar.

use crate::expr::plan::Unit;

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// Reads `YYYY-MM-DD`, optionally followed by `T` or a space and `HH:MM[:SS[.fraction]]`, and then
/// by `Z` or an offset `±HH[[:]MM]`. Without an offset the time is UTC.
pub(super) fn parse(text: &str) -> Option<i64> {
    let bytes = text.trim_ascii().as_bytes();
    let (year, rest) = digits(bytes, 4)?;
    let (month, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    let (day, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * MICROS_PER_DAY;
    let Some((b'T' | b't' | b' ', rest)) = rest.split_first() else {
        return rest.is_empty().then_some(midnight);
    };
    let (hour, rest) = digits(rest, 2)?;
    let (minute, mut rest) = digits(rest.strip_prefix(b":")?, 2)?;
    let (mut second, mut micros) = (0, 0);
    if let Some(after) = rest.strip_prefix(b":") {
        (second, rest) = digits(after, 2)?;
        if let Some(after) = rest.strip_prefix(b".") {
            let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if length == 0 || length > 18 {
                return None;
            }
            // Digits beyond the microsecond are cut off.
            let (fraction, _) = digits(after, length.min(6))?;
            micros = fraction * 10_i64.pow(6_u32.saturating_sub(length as u32));
            rest = &after[length..];
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let local = midnight
        + hour * MICROS_PER_HOUR
        + minute * MICROS_PER_MINUTE
        + second * MICROS_PER_SECOND
        + micros;
    Some(local - offset(rest)?)
}

/// Reads `Z`, `±HH`, `±HHMM`, `±HH:MM` or nothing, in microseconds.
fn offset(rest: &[u8]) -> Option<i64> {
    let rest = rest.trim_ascii_start();
    let (sign, rest) = match rest.split_first() {
        None | Some((b'Z' | b'z', [])) => return Some(0),
        Some((b'+', rest)) => (1, rest),
        Some((b'-', rest)) => (-1, rest),
        Some(_) => return None,
    };
    let (hours, rest) = digits(rest, 2)?;
    let minutes = match rest.strip_prefix(b":").unwrap_or(rest) {
        [] if rest.is_empty() => 0,
        rest => {
            let (minutes, rest) = digits(rest, 2)?;
            if !rest.is_empty() {
                return None;
            }
            minutes
        }
    };
    (hours <= 23 && minutes <= 59)
        .then_some(sign * (hours * MICROS_PER_HOUR + minutes * MICROS_PER_MINUTE))
}

fn digits(bytes: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (head, rest) = bytes.split_at_checked(count)?;
    let mut value = 0;
    for byte in head {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some((value, rest))
}

/// Writes RFC 3339 in UTC with no, three or six digits of fraction, as many as are needed.
pub(super) fn format(micros: i64) -> String {
    let (year, month, day) = civil(micros.div_euclid(MICROS_PER_DAY));
    let rest = micros.rem_euclid(MICROS_PER_DAY);
    let (hour, minute) = (rest / MICROS_PER_HOUR, rest / MICROS_PER_MINUTE % 60);
    let (second, fraction) = (rest / MICROS_PER_SECOND % 60, rest % MICROS_PER_SECOND);
    let sign = if year < 0 { "-" } else { "" };
    let date = format!("{sign}{:04}-{month:02}-{day:02}T", year.abs());
    let fraction = match fraction {
        0 => String::new(),
        fraction if fraction % 1000 == 0 => format!(".{:03}", fraction / 1000),
        fraction => format!(".{fraction:06}"),
    };
    format!("{date}{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Returns a part other than the fractional ones, which [`fraction`] returns.
pub(super) fn part(unit: Unit, micros: i64) -> i64 {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let rest = micros.rem_euclid(MICROS_PER_DAY);
    match unit {
        Unit::Microsecond => rest % MICROS_PER_MINUTE,
        Unit::Millisecond => rest % MICROS_PER_MINUTE / 1000,
        Unit::Second => rest / MICROS_PER_SECOND % 60,
        Unit::Minute => rest / MICROS_PER_MINUTE % 60,
        Unit::Hour => rest / MICROS_PER_HOUR,
        Unit::Day => civil(days).2,
        Unit::Month => civil(days).1,
        Unit::Quarter => (civil(days).1 + 2) / 3,
        Unit::Year => civil(days).0,
        Unit::DayOfWeek => weekday(days) % 7,
        Unit::IsoDayOfWeek => weekday(days),
        Unit::DayOfYear => days - days_from_civil(civil(days).0, 1, 1) + 1,
        Unit::Week => iso_week(days).1,
        Unit::IsoYear => iso_week(days).0,
        Unit::Epoch => micros.div_euclid(MICROS_PER_SECOND),
    }
}

/// Returns `second` or `epoch` with its fraction, in seconds.
pub(super) fn fraction(unit: Unit, micros: i64) -> f64 {
    let of = match unit {
        Unit::Epoch => micros,
        _ => micros.rem_euclid(MICROS_PER_MINUTE),
    };
    of as f64 / MICROS_PER_SECOND as f64
}

/// Returns the beginning of the unit in which an instant lies; `None` outside of the range.
pub(super) fn truncate(unit: Unit, micros: i64) -> Option<i64> {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let fixed = |step: i64| micros.checked_sub(micros.rem_euclid(step));
    let from_days = |days: i64| days.checked_mul(MICROS_PER_DAY);
    match unit {
        Unit::Microsecond => Some(micros),
        Unit::Millisecond => fixed(1000),
        Unit::Second => fixed(MICROS_PER_SECOND),
        Unit::Minute => fixed(MICROS_PER_MINUTE),
        Unit::Hour => fixed(MICROS_PER_HOUR),
        Unit::Day => fixed(MICROS_PER_DAY),
        Unit::Week => from_days(days - weekday(days) + 1),
        Unit::Month => {
            let (year, month, _) = civil(days);
            from_days(days_from_civil(year, month, 1))
        }
        Unit::Quarter => {
            let (year, month, _) = civil(days);
            from_days(days_from_civil(year, (month - 1) / 3 * 3 + 1, 1))
        }
        Unit::Year => from_days(days_from_civil(civil(days).0, 1, 1)),
        Unit::IsoYear => {
            let (year, _) = iso_week(days);
            let fourth = days_from_civil(year, 1, 4); // always in week 1
            from_days(fourth - weekday(fourth) + 1)
        }
        Unit::DayOfWeek | Unit::IsoDayOfWeek | Unit::DayOfYear | Unit::Epoch => None,
    }
}

/// Returns 1 for Monday to 7 for Sunday; day 0 was a Thursday.
fn weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// Returns the ISO 8601 year and week: the week belongs to the year of its Thursday.
fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - weekday(days) + 4;
    let year = civil(thursday).0;
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Returns year, month and day of a day since 1970-01-01 (same source).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::{DateTime, Datelike, Timelike};

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-11-22T04:46:30.123Z",
            "1969-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.000001Z",
        ] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn offsets_and_short_forms_are_understood() {
        let noon = parse("2026-01-01T12:00:00Z").unwrap();
        for text in [
            "2026-01-01 12:00",
            "2026-01-01T14:00:00+02:00",
            "2026-01-01 04:00:00-0800",
            "2026-01-01 13:00:00.000+01",
            " 2026-01-01 12:00:00 Z ",
        ] {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
    }

    #[test]
    fn nonsense_is_not_a_timestamp() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-01-01T25:00",
            "2026-01-01x",
            "2026-01-01T12:00:00.",
            "2026-01-01T12:00:00+",
            "2026-01-01T12:00:00+1:",
            "２026-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn oracle_chrono_agrees_on_every_part() {
        for step in -4000..4000_i64 {
            let micros = step * 86_461_123_457 * 7;
            let Some(time) = DateTime::from_timestamp_micros(micros) else { continue };
            assert_eq!(part(Unit::Year, micros), i64::from(time.year()));
            assert_eq!(part(Unit::Month, micros), i64::from(time.month()));
            assert_eq!(part(Unit::Day, micros), i64::from(time.day()));
            assert_eq!(part(Unit::Hour, micros), i64::from(time.hour()));
            assert_eq!(part(Unit::DayOfYear, micros), i64::from(time.ordinal()));
            assert_eq!(part(Unit::Week, micros), i64::from(time.iso_week().week()));
            assert_eq!(part(Unit::IsoYear, micros), i64::from(time.iso_week().year()));
            let weekday = time.weekday().number_from_monday();
            assert_eq!(part(Unit::IsoDayOfWeek, micros), i64::from(weekday));
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for micros in [i64::MIN, i64::MAX] {
            let _ = (format(micros), part(Unit::Week, micros), truncate(Unit::Week, micros));
            let _ = (truncate(Unit::Year, micros), truncate(Unit::Hour, micros));
        }
    }
}
