//! Days and times of day from a count of seconds, by integer arithmetic.
//!
//! It owns the one conversion that the data sets and the report need. It never reads a clock and
//! knows no time zone but UTC.

/// A point in UTC, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, 1970 or later.
    pub year: u64,
    /// Month, 1 to 12.
    pub month: u64,
    /// Day of the month, 1 to 31.
    pub day: u64,
    /// Hour, 0 to 23.
    pub hour: u64,
    /// Minute, 0 to 59.
    pub minute: u64,
    /// Second, 0 to 59.
    pub second: u64,
}

impl Civil {
    /// Converts seconds since 1970-01-01T00:00:00Z (Hinnant, "days from civil", reversed).
    pub fn from_unix(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    /// Returns `2026-01-05 13:37` for a report.
    pub fn to_minute(self) -> String {
        let Self { year, month, day, hour, minute, .. } = self;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: (u64, u64, u64, u64, u64, u64)) {
        let Civil { year, month, day, hour, minute, second } = Civil::from_unix(seconds);
        assert_eq!((year, month, day, hour, minute, second), expected);
    }

    #[test]
    fn seconds_become_days_and_times() {
        check(0, (1970, 1, 1, 0, 0, 0));
        check(951_782_400, (2000, 2, 29, 0, 0, 0));
        check(1_767_571_200, (2026, 1, 5, 0, 0, 0));
        check(1_767_225_599, (2025, 12, 31, 23, 59, 59));
        check(4_107_542_400, (2100, 3, 1, 0, 0, 0));
    }
}
