//! From a path to sources: what kind of data set it is, and its two parts.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    address::Remote,
    archive::{Index, Tar},
    cifar::CifarFiles,
    embedded,
    error::DataError,
    folder::{self, Folder},
    idx::IdxFiles,
    imagenet::ImageNet,
    layout::Roots,
    shard::{Catalog, disk, foreign, foreign::Tars},
    source::SharedSource,
    view::{hold_out, with_classes},
};

/// The part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is evaluated on: called val or test in data sets.
    Val,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Val => "validation",
        })
    }
}

/// Where a data set is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// The part of Fashion-MNIST inside the program.
    Embedded,
    /// A file or a folder.
    Path(PathBuf),
    /// A folder of shards in an object store or behind HTTP.
    Remote(Remote),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded Fashion-MNIST"),
            Self::Path(path) => path.display().fmt(f),
            Self::Remote(remote) => remote.address.fmt(f),
        }
    }
}

/// The sources of a run, with the same classes in the same order.
#[derive(Debug, Clone)]
pub struct Pair {
    /// To train on.
    pub train: SharedSource,
    /// To evaluate on.
    pub val: SharedSource,
}

/// Opens the `split` part of a data set, or all of it if it is not divided.
///
/// It may be a folder of class folders as torchvision lays it out; a folder with such folders called train and val
/// (or test); a tar of either; a folder of shards, prepared here or WebDataset tars of others; a folder of
/// ImageNet's own archives; a folder of MNIST's IDX files, gzip or not; CIFAR-10's or CIFAR-100's binary version
/// as a folder, tar or tar.gz. Content decides, not the name.
///
/// # Errors
///
/// A [`DataError`] that names the path and what is wrong with it.
pub fn open(location: &Location, split: Split) -> Result<SharedSource, DataError> {
    let found = Found::at(location)?;
    let source = found.load(split)?;
    if let (Split::Train, [class]) = (split, source.class_names()) {
        return Err(DataError::OneClass { path: location.path(), class: class.clone() });
    }
    Ok(source)
}

/// Opens both parts of a data set; validation data get the training data's labels, by class name.
///
/// `val` is another data set to evaluate on. Without it, a data set that is not divided gives the last
/// `val_fraction` of every class, by file name, to validation, rounded up.
///
/// # Errors
///
/// As [`open`]; and [`DataError::UnknownClasses`], [`DataError::OneClass`], and [`DataError::Setting`] for a
/// fraction outside of 0 to 1.
pub fn open_pair(location: &Location, val: Option<&Location>, val_fraction: f64) -> Result<Pair, DataError> {
    let found = Found::at(location)?;
    let (train, val, val_path) = if let Some(val) = val {
        (found.load(Split::Train)?, open(val, Split::Val)?, val.path())
    } else if found.is_divided() {
        (found.load(Split::Train)?, found.load(Split::Val)?, location.path())
    } else {
        if !(0.0 < val_fraction && val_fraction < 1.0) {
            let reason = format!("expected more than 0 and less than 1, got {val_fraction}");
            return Err(DataError::Setting { field: "val_fraction", reason });
        }
        let (train, val) = hold_out(found.load(Split::Train)?, val_fraction);
        (train, val, location.path())
    };
    if let [class] = train.class_names() {
        return Err(DataError::OneClass { path: location.path(), class: class.clone() });
    }
    let val = with_classes(val, train.class_names(), &val_path)?;
    Ok(Pair { train, val })
}

/// Opens all parts of a data set: training and validation data with the same classes, or the one part (`None`) of a
/// data set that is not divided.
///
/// # Errors
///
/// As [`open`], and [`DataError::UnknownClasses`].
pub fn open_parts(location: &Location) -> Result<Vec<(Option<Split>, SharedSource)>, DataError> {
    let found = Found::at(location)?;
    let first = found.load(Split::Train)?;
    if !found.is_divided() {
        return Ok(vec![(None, first)]);
    }
    let val = with_classes(found.load(Split::Val)?, first.class_names(), &location.path())?;
    Ok(vec![(Some(Split::Train), first), (Some(Split::Val), val)])
}

impl Location {
    fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Embedded | Self::Remote(_) => PathBuf::from(self.to_string()),
        }
    }
}

/// A data set of a kind that is known.
#[derive(Debug)]
enum Found {
    Embedded,
    Folder {
        path: PathBuf,
        roots: Roots,
    },
    Tar {
        index: Index,
        roots: Roots,
    },
    Shards {
        path: PathBuf,
        catalog: Catalog,
    },
    ForeignShards(Tars),
    ImageNet(ImageNet),
    #[cfg(feature = "remote")]
    Remote(super::remote::Folder),
    Idx {
        train: Option<IdxFiles>,
        val: Option<IdxFiles>,
        path: PathBuf,
    },
    Cifar(CifarFiles),
}

impl Found {
    /// Looks at what is there, and reads no picture.
    fn at(location: &Location) -> Result<Self, DataError> {
        let path = match location {
            Location::Embedded => return Ok(Self::Embedded),
            Location::Remote(remote) => return Self::in_store(remote),
            Location::Path(path) => path,
        };
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => DataError::NotFound { path: path.clone() },
            _ => DataError::Unreadable { path: path.clone(), source },
        };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Self::in_folder(path);
        }
        if !metadata.is_file() {
            return Err(DataError::NotRecognised { path: path.clone() });
        }
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(512).read_to_end(&mut start)).map_err(unreadable)?;
        match start.as_slice() {
            [0x1F, 0x8B, ..] => Ok(Self::Cifar(CifarFiles::find_in_tar_gz(path)?)),
            // POSIX and GNU tars alike: `magic` in the first header.
            start if start.get(257..262) == Some(b"ustar") => Self::in_tar(path),
            _ => Err(DataError::NotRecognised { path: path.clone() }),
        }
    }

    #[cfg(feature = "remote")]
    fn in_store(remote: &Remote) -> Result<Self, DataError> {
        super::remote::Folder::open(remote).map(Self::Remote)
    }

    #[cfg(not(feature = "remote"))]
    fn in_store(remote: &Remote) -> Result<Self, DataError> {
        let address = &remote.address;
        Err(DataError::StoreSetting(format!(
            "{address}: this build has no stores: build it with --features remote"
        )))
    }

    fn in_folder(path: &Path) -> Result<Self, DataError> {
        if let Some(catalog) = disk::catalog(path)? {
            return Ok(Self::Shards { path: path.into(), catalog });
        }
        let (train, val) = (IdxFiles::find(path, Split::Train), IdxFiles::find(path, Split::Val));
        if train.is_some() || val.is_some() {
            return Ok(Self::Idx { train, val, path: path.into() });
        }
        if let Some(files) = CifarFiles::find_in_folder(path) {
            return Ok(Self::Cifar(files));
        }
        if let Some(archives) = ImageNet::find(path)? {
            return Ok(Self::ImageNet(archives));
        }
        if let Some(tars) = Tars::find(path) {
            return Ok(Self::ForeignShards(tars));
        }
        let roots = Roots::find(|folder| folder::subfolders(&below(path, folder)))?;
        Ok(Self::Folder { path: path.into(), roots })
    }

    fn in_tar(path: &Path) -> Result<Self, DataError> {
        // Its own index, if one is kept, spares the look at all headers. What is damaged is told below.
        if foreign::begins_as_shard(path).unwrap_or(false) {
            return Ok(Self::ForeignShards(Tars::Whole(vec![path.into()])));
        }
        let index = Index::read(path)?;
        if let Some(files) = CifarFiles::find_in_tar(path, |name| index.has_file(name)) {
            return Ok(Self::Cifar(files));
        }
        if foreign::is_shard(&index) {
            return Ok(Self::ForeignShards(Tars::Whole(vec![path.into()])));
        }
        let roots = Roots::find(|folder| Ok::<_, DataError>(index.subfolders(folder)))?;
        Ok(Self::Tar { index, roots })
    }

    /// Whether it has a part for training and one for validation.
    fn is_divided(&self) -> bool {
        match self {
            Self::Embedded | Self::Cifar(_) | Self::ImageNet(_) => true,
            Self::Folder { roots, .. } | Self::Tar { roots, .. } => matches!(roots, Roots::Divided { .. }),
            Self::Shards { catalog, .. } => catalog.is_divided(),
            Self::ForeignShards(tars) => tars.is_divided(),
            #[cfg(feature = "remote")]
            Self::Remote(folder) => folder.is_divided(),
            Self::Idx { val, .. } => val.is_some(),
        }
    }

    fn load(&self, split: Split) -> Result<SharedSource, DataError> {
        let source: SharedSource = match self {
            Self::Embedded => Arc::new(embedded::load(split)?),
            Self::Folder { path, roots } => Arc::new(Folder::open(&below(path, roots.part(split)))?),
            Self::Tar { index, roots } => Arc::new(Tar::open(index, roots.part(split))?),
            Self::Shards { path, catalog } => Arc::new(disk::open(path, catalog, split)?),
            Self::ImageNet(archives) => Arc::new(archives.load(split)?),
            Self::ForeignShards(tars) => Arc::new(foreign::open(tars.part(split))?),
            #[cfg(feature = "remote")]
            Self::Remote(folder) => Arc::new(folder.load(split)?),
            Self::Idx { train, val, path } => {
                let files = if split == Split::Train { train } else { val };
                let files =
                    files.as_ref().ok_or_else(|| DataError::NoSuchSplit { path: path.clone(), split })?;
                Arc::new(files.load()?)
            }
            Self::Cifar(files) => Arc::new(files.load(split)?),
        };
        let (got, limit) = (source.num_images() as u64, u64::from(u32::MAX));
        if got > limit {
            return Err(DataError::TooLarge { path: source.name(0), what: "pictures", got, limit });
        }
        Ok(source)
    }
}

/// `path/relative`; without the slash that `join` puts before nothing.
fn below(path: &Path, relative: &str) -> PathBuf {
    if relative.is_empty() { path.into() } else { path.join(relative) }
}
