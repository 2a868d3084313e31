//! How numbers are put to people: one place, so that the progress lines, the curves and the report agree. Pure.

/// Writes seconds as a clock: `0:31`, `18:05`, `2:57:00`; `-:--` for what is not a time.
pub(crate) fn clock(seconds: f64) -> String {
    if !(0.0..1e9).contains(&seconds) {
        return "-:--".to_string();
    }
    let total = seconds.round() as u64;
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Writes a span of seconds, which may be far shorter than what a clock shows: `0.35 s`, `31.4 s`, `18:05`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        x if (0.0..10.0).contains(&x) => format!("{x:.2} s"),
        x if (10.0..100.0).contains(&x) => format!("{x:.1} s"),
        other => clock(other),
    }
}

/// Writes a count with a unit that keeps it short: `940`, `12.5 k`, `1.28 M`.
pub(super) fn count(value: f64) -> String {
    match value.abs() {
        x if x >= 1e9 => format!("{} G", three_digits(value / 1e9)),
        x if x >= 1e6 => format!("{} M", three_digits(value / 1e6)),
        x if x >= 1e4 => format!("{} k", three_digits(value / 1e3)),
        _ => three_digits(value),
    }
}

/// Writes a learning rate without trailing noise: `3.76`, `0.0564`, `1.5e-5`.
pub(crate) fn learning_rate(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-4 { format!("{value:.1e}") } else { trim(format!("{value:.5}")) }
}

/// Writes a speed in images a second.
pub(super) fn images_per_s(value: f64) -> String {
    if value < 10.0 { format!("{value:.1} images/s") } else { format!("{value:.0} images/s") }
}

/// Escapes text for an HTML element or a quoted attribute.
pub(super) fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        _ => 2,
    };
    trim(format!("{value:.decimals$}"))
}

fn trim(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let shown: Vec<_> =
            [0.0, 31.4, 59.6, 1085.2, 10_620.0, f64::NAN, -1.0, f64::INFINITY].map(clock).into();
        assert_eq!(shown, ["0:00", "0:31", "1:00", "18:05", "2:57:00", "-:--", "-:--", "-:--"]);
    }

    #[test]
    fn durations() {
        assert_eq!(
            [0.0, 0.352, 31.44, 1085.2, f64::NAN].map(duration),
            ["0.00 s", "0.35 s", "31.4 s", "18:05", "-:--"]
        );
    }

    #[test]
    fn counts_and_rates() {
        assert_eq!(
            [0.0, 940.0, 12_500.0, 1_281_167.0, 5e9].map(count),
            ["0", "940", "12.5 k", "1.28 M", "5 G"]
        );
        assert_eq!([3.76, 0.05639999, 1.5e-5, 0.0].map(learning_rate), ["3.76", "0.0564", "1.5e-5", "0"]);
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(escape_html("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
