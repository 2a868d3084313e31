//! What a store said, or that it said nothing, as one line without secrets; and whether asking again can help.

use std::time::Duration;

use object_store::Error;

/// What came instead of an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// In one line.
    pub(super) what: String,
    /// Whether it stays so: nothing there, no right to it. All else is asked for again.
    pub(super) lasts: bool,
}

impl Fault {
    pub(super) fn passing(what: impl Into<String>) -> Self {
        Self { what: what.into(), lasts: false }
    }

    pub(super) fn lasting(what: impl Into<String>) -> Self {
        Self { what: what.into(), lasts: true }
    }

    /// Nothing came for so long.
    pub(super) fn silence(idle: Duration) -> Self {
        Self::passing(format!("no byte for {} s", idle.as_secs_f64()))
    }
}

impl From<Error> for Fault {
    /// Addresses of requests are left out: they may be signed.
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::lasting("there is no such object"),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Self::lasting(
                "access is refused: credentials come from the environment (AWS_ACCESS_KEY_ID, \
                 GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY and the like) or the provider's own chain",
            ),
            Error::Precondition { .. } => Self::passing("the object was replaced while it was read"),
            Error::NotSupported { .. } => Self::passing("the server does not give parts of objects"),
            Error::InvalidPath { .. } => Self::lasting("its name cannot be an object's"),
            other => {
                let what = innermost(&other);
                let lasts = status(&what)
                    .is_some_and(|code| (400..500).contains(&code) && code != 408 && code != 429);
                Self { what, lasts }
            }
        }
    }
}

/// The first cause in one line: the outer ones repeat it, with the request's address.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    // Ends in a colon where the server gave no words.
    let line = text.lines().next().unwrap_or_default().trim_end_matches([':', ' ']);
    line.chars().take(200).collect()
}

/// The HTTP status in `object_store`'s words, whose type for it is private.
fn status(what: &str) -> Option<u16> {
    let after = what.split_once("status code: ")?.1;
    after.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_decides_whether_asking_again_can_help() {
        let fault = |text: &str| Fault::from(Error::Generic { store: "S3", source: text.into() });
        for (text, lasts) in [
            ("Server returned non-2xx status code: 503 Service Unavailable: ", false),
            ("Server returned non-2xx status code: 429 Too Many Requests: ", false),
            ("Server returned non-2xx status code: 400 Bad Request: <Error>", true),
            ("Connection refused (os error 111)", false),
        ] {
            assert_eq!(fault(text), Fault { what: text.trim_end_matches(": ").into(), lasts });
        }
        assert_eq!(fault("one\ntwo").what, "one");
    }
}
