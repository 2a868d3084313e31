//! Where a data set lies in an object store or behind HTTP, as words: an address that has no secret in it.
//!
//! Not here: any connection. Addresses are told apart from paths in every build, whether or not it can follow them.

use std::{fmt, path::PathBuf, time::Duration};

/// `file` is a folder by the same way, for tests and for shares that are slow.
const SCHEMES: [&str; 6] = ["s3", "gs", "az", "http", "https", "file"];

/// A folder in an object store or behind HTTP: `s3://bucket/imagenet`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    scheme: &'static str,
    /// The bucket, the container, or the host with its port.
    authority: String,
    /// Without a `/` at either end.
    path: String,
}

impl Address {
    /// Whether the words are meant as an address and not as a path on this machine.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        })
    }

    /// Takes an address apart.
    ///
    /// # Errors
    ///
    /// One line for another scheme, no bucket or host, and for whatever may be a secret: a user, a query (signed
    /// addresses have one). The line does not repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (given, rest) = text.split_once("://").unwrap_or(("", text));
        let Some(&scheme) = SCHEMES.iter().find(|scheme| scheme.eq_ignore_ascii_case(given)) else {
            let known = SCHEMES.map(|scheme| format!("{scheme}://")).join(", ");
            return Err(format!("`{given}://` is no kind of store that is known: there are {known}"));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(format!(
                "a {scheme}:// address has a user or password in it, which would end up in files and logs: credentials \
                 come from the environment or the provider's own chain"
            ));
        }
        if rest.contains(['?', '#']) {
            return Err(format!(
                "the address {scheme}://{authority}/... has a query, which may be a signature and would end up in files \
                 and logs: give the folder's address alone"
            ));
        }
        if (scheme == "file") != authority.is_empty() {
            let expected = if scheme == "file" { "file:///folder" } else { "a bucket or host after ://" };
            return Err(format!("`{text}` is no address of a folder: expected {expected}"));
        }
        if text.chars().any(char::is_control) || path.split('/').any(|name| name == "..") {
            return Err(format!("the address {scheme}://{authority}/... goes up or has control characters"));
        }
        Ok(Self { scheme, authority: authority.into(), path: path.trim_matches('/').into() })
    }

    /// `s3`, `gs`, `az`, `http`, `https` or `file`.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The address without its path.
    pub fn root(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// What follows the bucket or host, as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The folder of that name below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Self { path: path.trim_matches('/').into(), ..self.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, authority, path } = self;
        write!(f, "{scheme}://{authority}/{path}")
    }
}

/// A data set in a store, and how it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Where it lies.
    pub address: Address,
    /// The folder in which whole shards are kept, which the ranks of a machine share.
    pub cache_dir: PathBuf,
    /// The most bytes that they may take there.
    pub cache_bytes: u64,
    /// How long the store may stay away before what waits for it fails.
    pub patience: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_path() {
        for (text, expected) in [
            ("s3://a/b", true),
            ("http://a", true),
            ("/data/a:b", false),
            ("photos", false),
            ("a/b://c", false),
        ] {
            assert_eq!(Address::is_meant(text), expected, "{text}");
        }
        let address = Address::parse("S3://bucket/some/set/").unwrap();
        assert_eq!(address.to_string(), "s3://bucket/some/set");
        assert_eq!(address.below("160").to_string(), "s3://bucket/some/set/160");
        assert_eq!(
            Address::parse("http://127.0.0.1:80").unwrap().below("a").to_string(),
            "http://127.0.0.1:80/a"
        );
        assert_eq!(Address::parse("file:///tmp/a").unwrap().path(), "tmp/a");
    }

    #[test]
    fn what_may_be_a_secret_is_refused_and_not_repeated() {
        for text in [
            "https://me:hunter2@host/set",
            "s3://hunter2@bucket/set",
            "https://host/set?X-Amz-Signature=hunter2",
            "https://host/set#hunter2",
        ] {
            let message = Address::parse(text).unwrap_err();
            assert!(!message.contains("hunter2") && !message.contains('\n'), "{message}");
        }
        for text in ["ftp://host/a", "s3:///a", "file://host/a", "http://host/a/../b"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
