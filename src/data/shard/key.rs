//! Which files of a tar belong together, by webdataset's rule: those that stand side by side and whose paths are the same
//! up to the first dot of the file's name.
//!
//! Source: `base_plus_ext` of the Python package webdataset 1.0, `tariterators.py`. Hidden files, to which it gives their
//! folder as a key, are left out.

/// A path's key, and what follows the dot; `None` of a file without a dot, or whose name begins with one.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = path[name..].find('.').filter(|&dot| dot > 0)?;
    Some((&path[..name + dot], &path[name + dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the package's own function says of these paths.
    #[test]
    fn keys_are_webdatasets() {
        assert_eq!(split("a.jpg"), Some(("a", "jpg")));
        assert_eq!(split("a.b.jpg"), Some(("a", "b.jpg")));
        assert_eq!(split("train.v1/cat/a.seg.png"), Some(("train.v1/cat/a", "seg.png")));
        assert_eq!(split("train.v1/a"), None);
        assert_eq!(split(".hidden"), None);
        assert_eq!(split(""), None);
    }

    #[test]
    fn hidden_files_have_none() {
        assert_eq!(split("cat/.hidden.jpg"), None);
    }
}
