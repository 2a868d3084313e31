//! Error messages for TOML that does not fit: the nearest known key or name.

/// The known word nearest to `word`, if one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// A TOML error as one line: where, what, and for an unknown key or variant the nearest known one.
pub(super) fn explain(error: &toml::de::Error, text: Option<&str>) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let line = text
        .zip(error.span())
        .map(|(text, span)| {
            format!("line {}: ", text[..span.start.min(text.len())].matches('\n').count() + 1)
        })
        .unwrap_or_default();
    // Serde words it "unknown field `lrate`, expected one of `lr`, `size`": the words in backticks are ours.
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match quoted.next() {
        Some(word) if message.starts_with("unknown") => nearest(word, quoted),
        _ => None,
    };
    match hint {
        Some(known) => format!("{line}{message}; did you mean `{known}`?"),
        None => format!("{line}{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_slip_and_nothing_far_away() {
        assert_eq!(nearest("batchsize", ["size", "batch_size", "lr"]), Some("batch_size"));
        assert_eq!(nearest("quux", ["size", "batch_size", "lr"]), None);
    }
}
