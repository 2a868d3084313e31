//! Shards: pictures in a few large tars instead of a million files, each picture at hand by its number.
//!
//! A shard is a tar as the Python package `webdataset` reads and writes it: a picture `KEY.jpg` and its class `KEY.cls`,
//! a number in ASCII, side by side. Beside each lies an [index](index) that says where each picture is, and above all of
//! them a [catalogue](catalog). So any picture is one read away, without a look at the tar; and whoever has no index
//! reads the tar from its start, as ever.
//!
//! ```text
//! folder/shards.json        classes, parts, and each part's shards      catalog
//! folder/train-00000.tar    KEY.cls KEY.jpg KEY.cls KEY.jpg ..          write, key
//! folder/train-00000.index  where each picture is, its class, its size  index
//! ```
//!
//! [`source::Shards`] is the source. It asks a [`source::Store`] for bytes: [`disk`] is a folder; [`foreign`] are others' tars, whose
//! index is made when they are first opened.

pub(crate) mod catalog;
pub(crate) mod disk;
pub(crate) mod foreign;
pub(crate) mod index;
mod key;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub(crate) mod write;

pub(crate) use catalog::{CATALOG, Catalog, ShardFile};
