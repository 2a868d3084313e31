//! The folder of a run that was given none: `runs/<name>-<time>`.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970.
pub(super) fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The folder of a run of that name which begins at `now_s`.
pub(super) fn named(name: &str, now_s: f64) -> PathBuf {
    Path::new("runs").join(format!("{name}-{}", time_name(now_s)))
}

/// `20261123-101500`, in UTC.
fn time_name(now_s: f64) -> String {
    let second = now_s as i64 % 86_400;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{}-{hour:02}{minute:02}{second:02}", date(now_s).replace('-', ""))
}

/// `2026-11-23`, in UTC.
pub(super) fn date(now_s: f64) -> String {
    // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let days = (now_s / 86_400.0) as i64;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_names_are_utc_dates() {
        assert_eq!(time_name(0.0), "19700101-000000");
        assert_eq!(time_name(951_782_399.0), "20000228-235959");
        assert_eq!(time_name(951_782_400.0), "20000229-000000");
        assert_eq!(time_name(1_795_428_000.0), "20261123-100000");
    }
}
