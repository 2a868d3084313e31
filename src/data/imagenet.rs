//! ImageNet's own archives, as they are downloaded: nothing is unpacked, pictures are read at their place.
//!
//! `ILSVRC2012_img_train.tar` is a tar of a tar for each class, called by its synset's number in WordNet (WNID).
//! `ILSVRC2012_img_val.tar` is a tar of pictures without classes: the development kit, `ILSVRC2012_devkit_t12.tar.gz`, has
//! a list of their synsets by number, and a table of these numbers and WNIDs. As in torchvision, classes are WNIDs, sorted.
//!
//! Source: the development kit's readme.txt; torchvision 0.29 `datasets/imagenet.py`, for where in the kit what is.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::{
    archive::{Index, Place, Tar},
    error::DataError,
    matfile,
    open::Split,
};

const TRAIN: &str = "ILSVRC2012_img_train.tar";
const VAL: &str = "ILSVRC2012_img_val.tar";
const DEVKIT: &str = "ILSVRC2012_devkit_t12.tar.gz";

/// In the development kit, below its one folder.
const GROUND_TRUTH: &str = "data/ILSVRC2012_validation_ground_truth.txt";
const META: &str = "data/meta.mat";

/// Of a file of the development kit; the table has 1 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A folder with the three archives.
#[derive(Debug)]
pub(crate) struct ImageNet(PathBuf);

impl ImageNet {
    /// Finds them; `None` if there is neither of the two with pictures.
    ///
    /// # Errors
    ///
    /// [`DataError::Tar`] if one of the three is there and another is not.
    pub(crate) fn find(folder: &Path) -> Result<Option<Self>, DataError> {
        let is_there = |name: &&str| folder.join(name).is_file();
        if ![TRAIN, VAL].iter().any(is_there) {
            return Ok(None);
        }
        match [TRAIN, VAL, DEVKIT].iter().find(|name| !is_there(name)) {
            Some(name) => Err(refused(&folder.join(name), "it is missing beside ImageNet's other archives")),
            None => Ok(Some(Self(folder.into()))),
        }
    }

    pub(crate) fn load(&self, split: Split) -> Result<Tar, DataError> {
        match split {
            Split::Train => self.train(),
            Split::Val => self.val(),
        }
    }

    fn train(&self) -> Result<Tar, DataError> {
        let path = self.0.join(TRAIN);
        let mut folders = BTreeMap::new();
        for class in Index::read(&path)?.files() {
            let Some(wnid) = class.path.strip_suffix(".tar") else { continue };
            let pictures = Index::read_part(&path, class.offset, class.num_bytes)?;
            let pictures = pictures.files().iter().map(|place| (place.path.clone(), place.clone()));
            folders.insert(wnid.to_owned(), pictures.collect());
        }
        Tar::of_folders(&path, folders)
    }

    fn val(&self) -> Result<Tar, DataError> {
        let (path, devkit) = (self.0.join(VAL), self.0.join(DEVKIT));
        let labels = labels(&devkit)?;
        let index = Index::read(&path)?;
        let mut pictures: Vec<&Place> = index.files().iter().collect();
        // `ILSVRC2012_val_00000001.JPEG` and on: by number.
        pictures.sort_by(|a, b| a.path.cmp(&b.path));
        let (got, expected) = (pictures.len(), labels.len());
        if got != expected {
            return Err(refused(
                &path,
                format!("it has {got} pictures, {DEVKIT} has classes for {expected}"),
            ));
        }
        let mut folders: BTreeMap<String, Vec<(String, Place)>> = BTreeMap::new();
        for (place, wnid) in pictures.into_iter().zip(labels) {
            folders.entry(wnid).or_default().push((place.path.clone(), place.clone()));
        }
        Tar::of_folders(&path, folders)
    }
}

/// The synset of each validation picture, by the pictures' numbers.
fn labels(devkit: &Path) -> Result<Vec<String>, DataError> {
    let [truth, meta] = members(devkit, [GROUND_TRUTH, META])?;
    let synsets =
        matfile::synsets(&meta).map_err(|reason| refused(devkit, format!("{META} in it {reason}")))?;
    let synsets: HashMap<u32, String> = synsets.into_iter().collect();
    let truth = String::from_utf8_lossy(&truth);
    let label = |(at, line): (usize, &str)| {
        let wnid = line.trim().parse().ok().and_then(|id: u32| synsets.get(&id));
        wnid.cloned().ok_or_else(|| {
            let reason =
                format!("line {} of {GROUND_TRUTH} in it is {line:?}, which is no synset's number", at + 1);
            refused(devkit, reason)
        })
    };
    truth.lines().enumerate().map(label).collect()
}

/// Reads files of the development kit.
fn members<const N: usize>(devkit: &Path, names: [&str; N]) -> Result<[Vec<u8>; N], DataError> {
    let unreadable = |source| DataError::Unreadable { path: devkit.into(), source };
    let mut found = [const { None }; N];
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(devkit).map_err(unreadable)?));
    // Without the long names that an entry before may say: they would be read into memory, however long.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?;
        let Some(at) = names.iter().position(|name| path.ends_with(name)) else { continue };
        if entry.size() > MAX_FILE_BYTES {
            let reason =
                format!("it has {} of {} bytes, {MAX_FILE_BYTES} are the limit", names[at], entry.size());
            return Err(refused(devkit, reason));
        }
        let mut bytes = Vec::new();
        { entry }.read_to_end(&mut bytes).map_err(unreadable)?;
        found[at] = Some(bytes);
    }
    if let Some(at) = found.iter().position(Option::is_none) {
        return Err(refused(devkit, format!("it has no {}", names[at])));
    }
    Ok(found.map(Option::unwrap_or_default))
}

fn refused(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Tar { path: path.into(), reason: reason.into() }
}
