//! The data set inside the program: 10,000 training and 2,000 test pictures of Fashion-MNIST.
//!
//! Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
//! arXiv:1708.07747; MIT licence. `data/fashion-mnist/README.md` says how the files were made.

use super::{error::DataError, idx, memory::InMemory, open::Split};

/// The classes in the order of their labels, as the data set's authors list them.
const CLASS_NAMES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

macro_rules! embedded {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../data/fashion-mnist/", $name)).as_slice())
    };
}

/// Unpacks one part of the embedded set.
pub(crate) fn load(split: Split) -> Result<InMemory, DataError> {
    let (images, labels) = match split {
        Split::Train => {
            (embedded!("train-10000-images-idx3-ubyte.gz"), embedded!("train-10000-labels-idx1-ubyte.gz"))
        }
        Split::Val => {
            (embedded!("t10k-2000-images-idx3-ubyte.gz"), embedded!("t10k-2000-labels-idx1-ubyte.gz"))
        }
    };
    let sized = |(name, bytes): (&'static str, &'static [u8])| (name, bytes, bytes.len() as u64);
    idx::load(sized(images), sized(labels), Some(CLASS_NAMES.map(String::from).to_vec()))
}
