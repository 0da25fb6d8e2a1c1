//! Human: numbers, sizes, times and names as a person reads them.
//!
//! Names come from strangers: control characters in them are shown, never sent to the terminal.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use tidemill_client::Condition;

/// Returns a count with its thousands apart: `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a size: `512 B`, `1.2 MiB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    format!("{scaled:.1} {unit}")
}

/// Returns a duration with three digits or so: `850 us`, `12.3 ms`, `1.24 s`, `2m 03s`.
pub(crate) fn duration(value: Duration) -> String {
    let micros = value.as_micros();
    let seconds = value.as_secs();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..999_500 => format!("{:.0} ms", micros as f64 / 1e3),
        999_500..60_000_000 => format!("{:.2} s", micros as f64 / 1e6),
        _ if seconds < 3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Returns a line for each condition, for above everything else.
pub(crate) fn conditions(conditions: &[Condition]) -> String {
    let line = |one: &Condition| {
        let since = instant(one.since);
        format!(
            "! {} since {since} UTC: {}. {}\n",
            name(&one.code),
            name(&one.text),
            name(&one.hint)
        )
    };
    conditions.iter().map(line).collect()
}

/// Returns an instant for a person: `2026-11-22 05:01:20.123`, in UTC.
pub(crate) fn instant(time: SystemTime) -> String {
    match utc(time) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        None => "?".to_owned(),
    }
}

/// Returns an instant for a program: RFC 3339 in UTC with microseconds.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    Some(utc(time)?.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Returns the instant in UTC; `None` for a year that no calendar here can write.
fn utc(time: SystemTime) -> Option<DateTime<Utc>> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    DateTime::from_timestamp(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
}

/// Returns a name with its control and direction characters escaped.
pub(crate) fn name(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                shown.extend(letter.escape_unicode());
            }
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        let check = |value, expected: &str| assert_eq!(count(value), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
        check(u64::MAX, "18,446,744,073,709,551,615");
    }

    #[test]
    fn sizes_have_binary_units() {
        let check = |value, expected: &str| assert_eq!(bytes(value), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536, "1.5 KiB");
        check((1 << 20) - 1, "1.0 MiB");
        check(5 << 20, "5.0 MiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn durations_have_three_digits_or_so() {
        let check = |micros, expected: &str| {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        };
        check(0, "0 us");
        check(999, "999 us");
        check(1_000, "1.0 ms");
        check(12_345, "12.3 ms");
        check(123_456, "123 ms");
        check(999_700, "1.00 s");
        check(1_240_000, "1.24 s");
        check(123_000_000, "2m 03s");
        check(7_320_000_000, "2h 02m");
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        let check = |text, expected: &str| assert_eq!(name(text), expected);
        check("day.jsonl", "day.jsonl");
        check("größe.csv", "größe.csv");
        check("a\nb", "a\\nb");
        check("a\u{1b}[31m", "a\\u{1b}[31m");
        check("a\u{202e}b", "a\\u{202e}b");
    }
}
