//! Dates of the Gregorian calendar, in UTC. Must not: read the clock.

/// The year, month and day that come this many `days` after 1 January 1970. Counted in
/// years from March on, so that a leap day is the last of its year.
pub const fn date(days: u64) -> (u64, u64, u64) {
    /// From the first of March of the year 0.
    const TO_1970: u64 = 719_468;
    /// Of 400 years, 100, and 4.
    const DAYS: (u64, u64, u64) = (146_097, 36_524, 1461);
    let days = days + TO_1970;
    let (era, day) = (days / DAYS.0, days % DAYS.0);
    let leap_days = day / (DAYS.2 - 1) + day / (DAYS.0 - 1) - day / DAYS.1;
    let year = (day - leap_days) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months have 153 days, again and again.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_follows_the_one_before() {
        let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100);
        let is_leap = |year| is_leap(year) || year.is_multiple_of(400);
        let mut expected = (1970, 1, 1);
        for number in 0..200 * 366 {
            assert_eq!(date(number), expected);
            let (year, month, day) = expected;
            let last = match month {
                2 => 28 + u64::from(is_leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day == last) {
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
