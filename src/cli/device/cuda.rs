//! Whether this machine has what CUDA takes, decided before Burn is asked: its libraries panic where something is
//! missing, on threads of their own. From what was found to a card or to one line that says what to install; who looks
//! is `libraries`.
//!
//! What is needed, by CubeCL 0.11.3: the driver (`libcuda`), NVRTC of a toolkit (`libnvrtc`), which compiles each kernel
//! for the card at run time, and the toolkit's headers, which kernels include.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A version of CUDA, as in 12.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) name: String,
    /// Its compute capability: 90 is sm_90.
    pub(super) sm: u32,
    pub(super) memory_bytes: u64,
}

/// What NVIDIA's driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Driver {
    /// The newest CUDA that it runs.
    pub(super) cuda: Version,
    pub(super) cards: Vec<Card>,
}

/// Why there is no driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoDriver {
    /// `libcuda` is not there.
    Missing,
    /// It is there, and its own words.
    Unusable(String),
}

/// NVRTC, which compiles kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nvrtc {
    pub(super) version: Version,
    /// What it compiles for; empty where it does not tell.
    pub(super) sms: Vec<u32>,
}

/// Everything that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) driver: Result<Driver, NoDriver>,
    pub(super) nvrtc: Option<Nvrtc>,
    /// The folder whose `include` is taken, and whether kernels' headers are in it.
    pub(super) toolkit: Option<(PathBuf, bool)>,
    /// `CUDA_VISIBLE_DEVICES`, which hides cards and numbers the rest anew.
    pub(super) visible: Option<String>,
}

/// The card of number `index`, if everything is there that training on it takes; else what is missing and what to do.
pub(super) fn choose(found: &Found, index: usize) -> Result<&Card, String> {
    let driver = match &found.driver {
        Ok(driver) => driver,
        Err(NoDriver::Missing) => {
            return Err(
                "no NVIDIA driver (libcuda.so.1 cannot be loaded): install the driver, so that `nvidia-smi` \
                        lists the card; in a container, let the card in (docker run --gpus all)"
                    .into(),
            );
        }
        Err(NoDriver::Unusable(why)) => {
            return Err(format!(
                "the NVIDIA driver does not work ({why}): see that `nvidia-smi` lists the card; after an update of the \
                 driver, restart the machine"
            ));
        }
    };
    let hidden = found.visible.as_ref().map_or(String::new(), |visible| {
        format!("; CUDA_VISIBLE_DEVICES={visible} hides the others: cards are counted anew from 0 among those it names")
    });
    let card = match (driver.cards.get(index), driver.cards.len()) {
        (Some(card), _) => card,
        (None, 0) => return Err(format!("the NVIDIA driver sees no card{hidden}")),
        (None, count) => {
            return Err(format!("there is no card {index}: cuda:0 to cuda:{} are there{hidden}", count - 1));
        }
    };
    let Driver { cuda, .. } = driver;
    let Some(nvrtc) = &found.nvrtc else {
        return Err(format!(
            "no NVRTC (libnvrtc.so cannot be loaded), which compiles kernels: install a CUDA toolkit of at most {cuda}, \
             what this driver runs{}, and name its lib64 in LD_LIBRARY_PATH where the system does not find it",
            if card.sm < OLDEST_OF_13 { ", and of 12.x for this card" } else { "" }
        ));
    };
    let Card { name, sm, .. } = card;
    if !nvrtc.sms.is_empty() && !nvrtc.sms.contains(sm) {
        let too_old = nvrtc.sms.iter().all(|known| known < sm);
        let remedy = match (too_old, *sm < OLDEST_OF_13) {
            (true, _) => "a newer CUDA toolkit".to_owned(),
            (false, true) => "a CUDA toolkit of 12.x (13 has dropped the card)".to_owned(),
            (false, false) => format!("a CUDA toolkit that knows sm_{sm}"),
        };
        return Err(format!(
            "NVRTC {} does not compile for {name} (sm_{sm}): put the lib64 of {remedy} first in LD_LIBRARY_PATH, and its \
             folder in CUDA_PATH",
            nvrtc.version
        ));
    }
    if nvrtc.version > *cuda {
        return Err(format!(
            "NVRTC {} is newer than what the driver runs (CUDA {cuda}): update the driver, or put the lib64 of a toolkit \
             of at most {cuda} first in LD_LIBRARY_PATH, and its folder in CUDA_PATH",
            nvrtc.version
        ));
    }
    match &found.toolkit {
        Some((_, true)) => Ok(card),
        Some((folder, false)) => Err(format!(
            "the CUDA toolkit's headers are not in {}: install the toolkit whole, or name its folder in CUDA_PATH",
            Path::new(folder).join("include").display()
        )),
        None => Err("the CUDA toolkit's headers are not there (CUDA_PATH is not set, and neither /usr/local/cuda nor \
                     /opt/cuda is there): kernels include them; install a CUDA toolkit, or name its folder in CUDA_PATH"
            .into()),
    }
}

/// CUDA 13 compiles for no older card, V100 (sm_70) among them.
const OLDEST_OF_13: u32 = 75;

/// The card that was chosen, in words.
pub(super) fn in_words(card: &Card, found: &Found) -> String {
    let Card { name, sm, memory_bytes } = card;
    let gib = *memory_bytes as f64 / (1u64 << 30) as f64;
    let mut words = format!("{name}, sm_{sm}, {gib:.0} GiB");
    if let Ok(driver) = &found.driver {
        words.push_str(&format!("; driver for CUDA {}", driver.cuda));
    }
    if let Some(nvrtc) = &found.nvrtc {
        words.push_str(&format!(", NVRTC {}", nvrtc.version));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const V100: (&str, u32) = ("Tesla V100-SXM2-16GB", 70);
    const H100: (&str, u32) = ("NVIDIA H100 80GB HBM3", 90);
    /// What NVRTC 12.9 and 13.0 say that they compile for.
    const SMS_12_9: &[u32] =
        &[50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121];
    const SMS_13_0: &[u32] = &[75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    fn card((name, sm): (&str, u32)) -> Card {
        Card { name: name.into(), sm, memory_bytes: 80 << 30 }
    }

    /// A machine on which everything is there.
    fn whole(cards: &[(&str, u32)], driver: Version, nvrtc: Version, sms: &[u32]) -> Found {
        Found {
            driver: Ok(Driver { cuda: driver, cards: cards.iter().copied().map(card).collect() }),
            nvrtc: Some(Nvrtc { version: nvrtc, sms: sms.to_vec() }),
            toolkit: Some(("/usr/local/cuda".into(), true)),
            visible: None,
        }
    }

    #[track_caller]
    fn refused(found: &Found, index: usize, words: &[&str]) {
        let line = choose(found, index).unwrap_err();
        assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }

    #[test]
    fn a_machine_with_everything_has_its_cards() {
        let found = whole(&[H100, V100], version(13, 0), version(12, 9), SMS_12_9);
        assert_eq!(choose(&found, 0).unwrap().sm, 90);
        assert_eq!(choose(&found, 1).unwrap().sm, 70);
        let words = in_words(&card(H100), &found);
        assert_eq!(words, "NVIDIA H100 80GB HBM3, sm_90, 80 GiB; driver for CUDA 13.0, NVRTC 12.9");
        // An NVRTC that does not tell is believed.
        choose(&whole(&[V100], version(12, 9), version(12, 9), &[]), 0).unwrap();
    }

    #[test]
    fn without_a_driver() {
        let mut found = whole(&[H100], version(13, 0), version(13, 0), SMS_13_0);
        found.driver = Err(NoDriver::Missing);
        refused(&found, 0, &["no NVIDIA driver", "libcuda.so.1", "install the driver", "--gpus all"]);
        found.driver = Err(NoDriver::Unusable("cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH".into()));
        refused(&found, 0, &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "nvidia-smi", "restart"]);
    }

    #[test]
    fn without_such_a_card() {
        let mut found = whole(&[H100, H100], version(13, 0), version(13, 0), SMS_13_0);
        refused(&found, 2, &["no card 2", "cuda:0 to cuda:1"]);
        found.visible = Some("4,5".into());
        refused(&found, 5, &["no card 5", "CUDA_VISIBLE_DEVICES=4,5", "counted anew from 0"]);
        found = whole(&[], version(13, 0), version(13, 0), SMS_13_0);
        refused(&found, 0, &["sees no card"]);
        found.visible = Some("".into());
        refused(&found, 0, &["sees no card", "CUDA_VISIBLE_DEVICES="]);
    }

    #[test]
    fn without_nvrtc() {
        let mut found = whole(&[H100], version(12, 4), version(12, 4), SMS_12_9);
        found.nvrtc = None;
        refused(&found, 0, &["no NVRTC", "libnvrtc.so", "at most 12.4", "LD_LIBRARY_PATH"]);
        assert!(!choose(&found, 0).unwrap_err().contains("12.x"));
        found = whole(&[V100], version(13, 0), version(13, 0), &[]);
        found.nvrtc = None;
        refused(&found, 0, &["no NVRTC", "12.x for this card"]);
    }

    #[test]
    fn with_a_toolkit_that_does_not_know_the_card() {
        let found = whole(&[V100], version(13, 0), version(13, 0), SMS_13_0);
        refused(&found, 0, &["NVRTC 13.0", "Tesla V100-SXM2-16GB (sm_70)", "12.x", "CUDA_PATH"]);
        let found = whole(&[("NVIDIA B200", 100)], version(13, 0), version(12, 4), &[70, 80, 90]);
        refused(&found, 0, &["NVRTC 12.4", "sm_100", "a newer CUDA toolkit"]);
        let found = whole(&[("odd", 88)], version(13, 0), version(12, 9), SMS_12_9);
        refused(&found, 0, &["a CUDA toolkit that knows sm_88"]);
    }

    #[test]
    fn with_a_toolkit_newer_than_the_driver() {
        let found = whole(&[H100], version(12, 4), version(12, 9), SMS_12_9);
        refused(&found, 0, &["NVRTC 12.9 is newer", "CUDA 12.4", "update the driver", "at most 12.4"]);
    }

    #[test]
    fn without_headers() {
        let mut found = whole(&[H100], version(13, 0), version(13, 0), SMS_13_0);
        found.toolkit = Some(("/opt/cuda".into(), false));
        refused(&found, 0, &["headers are not in /opt/cuda/include", "CUDA_PATH"]);
        found.toolkit = None;
        refused(&found, 0, &["headers", "CUDA_PATH is not set", "/usr/local/cuda"]);
    }
}
