//! Pictures on disk to batches of bytes: sources, decoding, augmentation, sampling, loading.
//!
//! Everything here is host memory and `u8`: a [`Batch`] is what goes to the device, which normalises it
//! there. No tensor is made in this module and no backend is named.
//!
//! ```text
//! open -> Source (folder, tar, shards here or in a store, IDX, CIFAR, embedded) -> decode -> Picture
//!                                                                   |
//! shuffle, sampler (which pictures, in which order) -> loader -> Transform -> Batch
//! ```
//!
//! ```
//! use burn_sprint::data::{Channels, Loader, LoaderConfig, Location, Pass, Tail, Transform, open_pair};
//!
//! let data = open_pair(&Location::Embedded, None, 0.2)?;
//! let transform = Transform::PadAndCrop { size: 28, padding: 2, flip: true };
//! let pass = Pass::Train { seed: 0, epoch: 0, tail: Tail::Drop };
//! let mut loader = Loader::new(data.train, LoaderConfig::new(transform, Channels::Grey, 128, pass))?;
//! let batch = loader.next().expect("10,000 pictures make 78 batches")?;
//! assert_eq!(batch.shape, [128, 28, 28, 1]);
//! # Ok::<(), burn_sprint::data::DataError>(())
//! ```
//!
//! # Determinism
//!
//! The order of an epoch is a function of (seed, epoch), and a picture's augmentation one of (seed, epoch,
//! sample index). Neither knows how many threads or ranks there are, so batch k is the same for any number of
//! threads, and the global batch k the same set of augmented pictures for any number of ranks.

mod address;
mod archive;
mod batch;
mod batches;
pub mod blocks;
pub mod check;
mod cifar;
mod copies;
pub(crate) mod cores;
pub mod crop;
pub mod decode;
mod embedded;
pub mod error;
mod folder;
mod idx;
mod imagenet;
mod jpeg;
mod kept;
mod layout;
mod leg;
pub mod loader;
mod matfile;
mod memory;
pub mod open;
mod pass;
pub mod picture;
pub mod random;
pub mod rect;
#[cfg(feature = "remote")]
mod remote;
pub mod resize;
pub mod sampler;
pub(crate) mod shard;
pub mod shuffle;
pub mod sizes;
mod slot;
pub mod source;
mod speed;
mod tickets;
pub mod transform;
#[cfg(feature = "turbojpeg")]
mod turbo;
mod view;
mod webp;
mod worker;

pub use address::{Address, Remote};
pub use batch::Batch;
pub use blocks::Blocks;
pub use copies::Copies;
pub use crop::CropRule;
pub use error::{Away, DataError, SampleError, SampleFault};
pub use folder::read_file;
pub use kept::user_caches;
pub use layout::EXTENSIONS;
pub use loader::Loader;
pub use open::{Location, Pair, Split, open, open_pair, open_parts};
pub use pass::{LoaderConfig, OnBadFile, Pass};
pub use picture::{Channels, Picture};
pub use rect::{PictureSize, Rectangles};
pub use sampler::Tail;
pub use shuffle::Shuffle;
pub use source::{SharedSource, Source};
pub use speed::InputSpeed;
pub use transform::Transform;
pub use view::{first_of_each_class, with_classes};
