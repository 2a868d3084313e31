//! Data made ready for training: copies in other sizes, and shards, from whatever [`data::open`](crate::data::open()) reads.
//!
//! What is written is a function of the pictures and the [`Settings`]: whoever is killed and runs again goes on, and ends
//! with the same bytes. Every file is there whole or not at all. Nothing is trained and nothing decided here that
//! training would have to know: a prepared folder is read as any other.
//!
//! ```text
//! open -> Preparation (parts, names, order: plan) -> check_space -> write (picture, shards | folder) -> verify
//! ```

mod folder;
mod picture;
mod plan;
mod shards;
mod space;
mod state;
mod work;

use std::{collections::BTreeSet, path::PathBuf};

pub use work::{Preparation, Written};

/// JPEG quality where none is asked for.
pub const DEFAULT_QUALITY: u8 = 90;

/// What is to be made of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The data set.
    pub data: PathBuf,
    /// The folder to make; the data set's own one, to have copies added to it.
    pub out: PathBuf,
    /// The short sides of the copies, in pixels. A picture that is no larger is copied as it is.
    pub sizes: BTreeSet<u32>,
    /// Shards instead of picture files.
    pub shards: bool,
    /// The pictures of a shard; by the number of all of them if it is not given.
    pub per_shard: Option<u32>,
    /// Encodes all pictures anew, with at most so many pixels on the long side: it loses what was in them.
    pub max_side: Option<u32>,
    /// Of what is encoded, from 1 to 100, as libjpeg counts.
    pub quality: u8,
    /// Of the order in which shards have the pictures.
    pub seed: u64,
    /// Leaves out pictures that cannot be read.
    pub skip_bad_files: bool,
}
