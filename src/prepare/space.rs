//! How much room a preparation takes, by what some of its pictures take, and how much there is.

use std::path::Path;

use crate::error::{Error, Result};

/// Pictures that are tried.
const NUM_SAMPLES: usize = 32;

/// The places of some of `num_images`, spread evenly.
pub(super) fn samples(num_images: usize) -> impl ExactSizeIterator<Item = usize> {
    let num_samples = num_images.min(NUM_SAMPLES);
    (0..num_samples).map(move |sample| sample * num_images / num_samples)
}

/// Bytes that may be written below `folder`.
pub(super) fn free_bytes(folder: &Path) -> Result<u64> {
    let stat =
        rustix::fs::statvfs(folder).map_err(std::io::Error::from).map_err(Error::io("look at", folder))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses to begin what does not fit.
pub(super) fn check(needed_bytes: u64, free_bytes: u64, folder: &Path) -> Result<()> {
    if needed_bytes <= free_bytes {
        return Ok(());
    }
    Err(Error::run(format!(
        "{} has {} free, and about {} are needed: free some space, or give another --out",
        folder.display(),
        in_words(free_bytes),
        in_words(needed_bytes)
    )))
}

fn in_words(bytes: u64) -> String {
    let (unit, name) = if bytes < 10_000_000_000 { (1e6, "MB") } else { (1e9, "GB") };
    format!("{:.1} {name}", bytes as f64 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_all_of_few() {
        assert_eq!(samples(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(samples(0).len(), 0);
        let many: Vec<usize> = samples(1_281_167).collect();
        assert_eq!((many.len(), many[0], many[16]), (32, 0, 640_583));
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        check(100, 100, Path::new("out")).unwrap();
        let error = check(2_000_000, 1_500_000, Path::new("out")).unwrap_err().to_string();
        assert!(error.starts_with("out has 1.5 MB free, and about 2.0 MB are needed"), "{error}");
        let error = check(140_000_000_000, 0, Path::new("out")).unwrap_err().to_string();
        assert!(error.contains("about 140.0 GB"), "{error}");
    }
}
