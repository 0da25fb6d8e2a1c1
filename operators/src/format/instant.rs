//! Instants: RFC 3339 text to microseconds since 1970 in UTC, and back. Holds nothing but the last
//! minute it read.

use chrono::DateTime;

const MICROS: i64 = 1_000_000;

/// Reads instants. Logs repeat the same minute line after line, so the last one is remembered.
#[derive(Debug, Default)]
pub(super) struct Instants {
    /// `2026-11-22T01:02` as it was written, and the microseconds it stands for.
    minute: Option<(u128, i64)>,
}

impl Instants {
    /// Returns the microseconds of an instant: `T`, `t` or a space between date and time, at most
    /// nine decimals cut to six, no zone meaning UTC.
    #[inline]
    pub(super) fn parse(&mut self, text: &[u8]) -> Option<i64> {
        self.plain(text).or_else(|| unusual(text))
    }

    #[inline]
    fn plain(&mut self, text: &[u8]) -> Option<i64> {
        let (prefix, rest) = text.split_first_chunk::<16>()?;
        let key = u128::from_le_bytes(*prefix);
        let minute = match self.minute {
            Some((known, minute)) if known == key => minute,
            _ => {
                let minute = read_minute(prefix)?;
                self.minute = Some((key, minute));
                minute
            }
        };
        let [b':', seconds @ .., _] = rest.first_chunk::<4>().copied().unwrap_or([
            *rest.first()?,
            *rest.get(1)?,
            *rest.get(2)?,
            0,
        ]) else {
            return None;
        };
        let seconds = pair(seconds)?;
        if seconds > 59 {
            return None;
        }
        let mut rest = rest.get(3..)?;
        let mut micros = 0;
        if let [b'.', decimals @ ..] = rest {
            let len = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if len == 0 || len > 9 {
                return None;
            }
            let cut = &decimals[..len.min(6)];
            for digit in cut {
                micros = micros * 10 + i64::from(digit - b'0');
            }
            for _ in cut.len()..6 {
                micros *= 10;
            }
            rest = &decimals[len..];
        }
        let zone = match *rest {
            [] | [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
                let (hours, minutes) = (pair([h0, h1])?, pair([m0, m1])?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = (hours * 60 + minutes) * 60 * MICROS;
                if sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        Some(minute + seconds * MICROS + micros - zone)
    }
}

fn pair([tens, ones]: [u8; 2]) -> Option<i64> {
    let both = tens.is_ascii_digit() && ones.is_ascii_digit();
    both.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// Returns the microseconds of `YYYY-MM-DDTHH:MM`.
fn read_minute(text: &[u8; 16]) -> Option<i64> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', n0, n1] =
        text
    else {
        return None;
    };
    let year = pair([y0, y1])? * 100 + pair([y2, y3])?;
    let (month, day) = (pair([m0, m1])?, pair([d0, d1])?);
    let (hour, minute) = (pair([h0, h1])?, pair([n0, n1])?);
    if hour > 23 || minute > 59 {
        return None;
    }
    let date = chrono::NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32)?;
    let midnight = date.and_hms_opt(0, 0, 0)?.and_utc().timestamp();
    Some((midnight + (hour * 60 + minute) * 60) * MICROS)
}

/// What the plain way does not take: leap seconds.
#[cold]
fn unusual(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    DateTime::parse_from_rfc3339(text).ok().map(|instant| instant.timestamp_micros())
}

/// Appends an instant as RFC 3339 in UTC: no decimals, three, or six.
pub(super) fn write(micros: i64, out: &mut Vec<u8>) {
    let (seconds, part) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS) as u64);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u64);
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        write_digits(year as u64, 4, out);
    } else {
        // Beyond RFC 3339; ISO 8601 asks for a sign then.
        out.push(if year < 0 { b'-' } else { b'+' });
        write_digits(year.unsigned_abs(), 6, out);
    }
    for (before, value) in [(b'-', month), (b'-', day), (b'T', second / 3600)] {
        out.push(before);
        write_digits(value, 2, out);
    }
    for value in [second / 60 % 60, second % 60] {
        out.push(b':');
        write_digits(value, 2, out);
    }
    if part > 0 {
        out.push(b'.');
        if part.is_multiple_of(1000) {
            write_digits(part / 1000, 3, out);
        } else {
            write_digits(part, 6, out);
        }
    }
    out.push(b'Z');
}

fn write_digits(mut value: u64, len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + len, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Returns year, month and day of a day counted from 1970-01-01 ("chrono-Compatible Low-Level Date
/// Algorithms", H. Hinnant).
fn civil(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, written: Option<&str>) {
        let found = Instants::default().parse(text.as_bytes()).map(|micros| {
            let mut out = Vec::new();
            write(micros, &mut out);
            String::from_utf8(out).unwrap()
        });
        assert_eq!(found.as_deref(), written, "{text}");
    }

    #[test]
    fn instants_are_read_in_every_usual_spelling() {
        check("2026-11-22T01:02:03Z", Some("2026-11-22T01:02:03Z"));
        check("2026-11-22T01:02:03", Some("2026-11-22T01:02:03Z"));
        check("2026-11-22 01:02:03.5", Some("2026-11-22T01:02:03.500Z"));
        check("2026-11-22t01:02:03.123456789z", Some("2026-11-22T01:02:03.123456Z"));
        check("2026-11-22T01:02:03.120000Z", Some("2026-11-22T01:02:03.120Z"));
        check("2026-11-22T01:02:03+02:30", Some("2026-11-21T22:32:03Z"));
        check("2026-11-22T01:02:03-02:30", Some("2026-11-22T03:32:03Z"));
        check("1969-12-31T23:59:59.999999Z", Some("1969-12-31T23:59:59.999999Z"));
        check("0000-01-01T00:00:00+23:59", Some("-000001-12-31T00:01:00Z"));
        check("2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00Z"));
        for bad in [
            "",
            "2026",
            "2026-11-22",
            "2026-11-22T01:02",
            "2026-11-22T01:02:3Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T01:60:00Z",
            "2026-11-22T01:02:61Z",
            "2026-11-22T01:02:03.Z",
            "2026-11-22T01:02:03+0200",
            "2026-11-22T01:02:03+24:00",
            "2026-11-22T01:02:03Zx",
            "2026-11-22X01:02:03Z",
            "2026-1a-22T01:02:03Z",
            " 2026-11-22T01:02:03Z",
            "1763773323",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn oracle_instants_are_what_chrono_says(
            micros in -62_167_219_200_000_000i64..253_402_300_800_000_000,
            minutes in -1439i32..1440,
        ) {
            let utc = DateTime::from_timestamp_micros(micros).unwrap();
            let zone = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            let mut out = Vec::new();
            write(micros, &mut out);
            let written = String::from_utf8(out).unwrap();
            prop_assert_eq!(DateTime::parse_from_rfc3339(&written).unwrap(), utc);
            prop_assert_eq!(Instants::default().parse(written.as_bytes()), Some(micros));
            let local = utc.with_timezone(&zone).to_rfc3339();
            if local.len() <= 32 && !local.starts_with(['-', '+']) {
                prop_assert_eq!(Instants::default().parse(local.as_bytes()), Some(micros), "{}", local);
            }
        }

        #[test]
        fn oracle_what_chrono_takes_we_take(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])") {
            let ours = Instants::default().parse(text.as_bytes());
            let chronos = DateTime::parse_from_rfc3339(&text).ok().map(|t| t.timestamp_micros());
            prop_assert_eq!(ours, chronos);
        }
    }
}
