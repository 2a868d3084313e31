//! Weights in and out: PyTorch and safetensors files, and the same in memory for a checkpoint.
//!
//! Reads what torchvision and timm publish: `.pth` (zip, and the older pickle stream) and `.safetensors`, in any float
//! type, under prefixes such as `module.` and keys such as `state_dict`. Writes `.safetensors` that
//! `load_state_dict(strict=True)` accepts. The kind of a file is seen from its bytes, not from its name. A network with
//! blur pools has ffcv's names instead, which tell of them: such a file does not load into a network without.
//!
//! A model is changed only once everything fits: names and shapes are compared before a value is read, and all values are
//! read before one is set.
//!
//! ```
//! use burn::tensor::Device;
//! use burn_resnet::weights::{self, HeadPolicy, WeightsFile};
//! use burn_resnet::{Depth, ResNetConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("resnet8.safetensors");
//! let device = Device::flex();
//! let model = ResNetConfig::new(Depth::D8, 10)?.init(1, &device);
//! weights::save(&path, &model, &Default::default())?;
//!
//! let file = WeightsFile::open(&path)?;
//! assert_eq!(&file.config()?, model.config());
//!
//! // Fine-tuning: another number of classes, so another head.
//! let mut model = file.config()?.with_num_classes(3)?.init(2, &device);
//! file.load_into(&mut model, HeadPolicy::Reinit)?;
//! # Ok(())
//! # }
//! ```

mod blur;
mod names;
mod read;
mod reconcile;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

pub use reconcile::Mismatch;
pub use write::save;

use crate::config::{ConfigError, ResNetConfig};
use crate::resnet::ResNet;
use read::Entry;

/// Why weights could not be read, fitted or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot read weights {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written; what was there before is untouched.
    #[error("cannot write weights {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is neither a PyTorch nor a safetensors file, or a damaged one.
    #[error("{path:?} is no readable PyTorch or safetensors file: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        reason: String,
    },
    /// The file is larger than any weights of these networks.
    #[error(
        "{path:?} has {got_bytes} bytes, weights have at most {expected_bytes_max}: is it the right file?"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        got_bytes: u64,
        /// The bound.
        expected_bytes_max: u64,
    },
    /// The file holds no ResNet, or several.
    #[error("{path:?} {reason}")]
    NoNetwork {
        /// The file.
        path: PathBuf,
        /// What was looked for and found.
        reason: String,
    },
    /// The tensors are those of no ResNet known here.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tensors are not the model's.
    #[error(transparent)]
    Mismatch(Box<Mismatch>),
    /// Everything fits but the classifier's number of classes.
    #[error(
        "fc.weight is for {got_classes} classes, the model has {expected_classes}: \
         pass HeadPolicy::Reinit to keep the body and start a new head"
    )]
    HeadMismatch {
        /// Classes of the model.
        expected_classes: usize,
        /// Classes of the weights.
        got_classes: usize,
    },
    /// A tensor's values cannot be weights.
    #[error("tensor {name} {reason}")]
    Values {
        /// Its name.
        name: String,
        /// What is wrong with them.
        reason: String,
    },
}

/// What to do with the classifier when weights are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadPolicy {
    /// It must fit, like everything else.
    #[default]
    Strict,
    /// If the weights have none, or one for another number of classes, the model keeps the one it has.
    Reinit,
}

/// One tensor by torchvision's name, its values on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// torchvision's name, such as `layer1.0.bn1.running_mean`.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub data: Vec<f32>,
}

/// A file of weights, of which so far only names, types and shapes have been read.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    num_bytes: u64,
    entries: Vec<Entry>,
    /// Of blur pools, which are no weights.
    filters: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

impl WeightsFile {
    /// Opens a file and finds the network in it.
    ///
    /// # Errors
    /// [`WeightsError::Read`], [`Unreadable`](WeightsError::Unreadable), [`TooLarge`](WeightsError::TooLarge), or
    /// [`NoNetwork`](WeightsError::NoNetwork).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let read::Opened { num_bytes, entries, metadata } = read::open(path)?;
        let mut entries = names::normalize(entries)
            .map_err(|reason| WeightsError::NoNetwork { path: path.to_owned(), reason })?;
        let filters = blur::take_filters(&mut entries);
        Ok(Self { path: path.to_owned(), num_bytes, entries, filters, metadata })
    }

    /// The architecture, read off names and shapes.
    ///
    /// # Errors
    /// [`WeightsError::Config`] if it is none known here; [`WeightsError::NoNetwork`] if such a network cannot be in a
    /// file of this size, so that a hostile file cannot make its reader build a huge one.
    pub fn config(&self) -> Result<ResNetConfig, WeightsError> {
        let config = ResNetConfig::infer(self.shapes())?.with_blur_pool(!self.filters.is_empty());
        let (num_params, num_bytes) = (config.num_params(), self.num_bytes);
        // The smallest type of weights takes two bytes.
        if num_params > num_bytes / 2 {
            let depth = config.depth();
            let reason =
                format!("names a ResNet-{depth} of {num_params} parameters, and has {num_bytes} bytes");
            return Err(WeightsError::NoNetwork { path: self.path.clone(), reason });
        }
        Ok(config)
    }

    /// torchvision's names, and shapes. Filters of blur pools are not among them.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    /// What a safetensors file says of itself; empty for a PyTorch file.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets every parameter and running statistic of `model`, or none.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] or [`HeadMismatch`](WeightsError::HeadMismatch) if names or shapes disagree,
    /// [`Values`](WeightsError::Values) if a tensor is not of floats or not finite, [`Read`](WeightsError::Read) or
    /// [`Unreadable`](WeightsError::Unreadable) if the file ends early.
    pub fn load_into(&self, model: &mut ResNet, head: HeadPolicy) -> Result<(), WeightsError> {
        let shapes: Vec<_> = self.shapes().collect();
        let chosen = reconcile::reconcile(model, &shapes, head)?;
        blur::compare(model, &self.filters)?;
        for filter in &self.filters {
            blur::check(&self.read_tensor(filter)?)?;
        }
        let tensors = chosen.into_iter().map(|index| self.read_tensor(&self.entries[index]));
        set(model, tensors.collect::<Result<_, _>>()?);
        Ok(())
    }

    fn read_tensor(&self, entry: &Entry) -> Result<NamedTensor, WeightsError> {
        let values = |reason: String| WeightsError::Values { name: entry.name.clone(), reason };
        if !matches!(entry.dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
            return Err(values(format!("holds {:?}, weights are floats", entry.dtype)));
        }
        let bytes = (entry.read)().map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                WeightsError::Unreadable { path: self.path.clone(), reason: source.to_string() }
            }
            _ => WeightsError::Read { path: self.path.clone(), source },
        })?;
        let data = TensorData::from_bytes_vec(bytes, entry.shape.clone(), entry.dtype).convert::<f32>();
        let data: Vec<f32> = data.try_to_vec().map_err(|e| values(format!("cannot be converted: {e:?}")))?;
        checked(NamedTensor { name: entry.name.clone(), shape: entry.shape.clone(), data })
    }
}

/// The network that a file holds, on `device`.
///
/// # Errors
/// As [`WeightsFile::open`], [`WeightsFile::config`] and [`WeightsFile::load_into`].
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<ResNet, WeightsError> {
    let file = WeightsFile::open(path)?;
    let mut model = file.config()?.init(0, device);
    file.load_into(&mut model, HeadPolicy::Strict)?;
    Ok(model)
}

/// Every parameter and running statistic of `model`, copied to the host, in the model's order.
///
/// # Cost
/// One read from the device a tensor.
#[must_use]
pub fn to_named(model: &ResNet) -> Vec<NamedTensor> {
    struct Values(Vec<Vec<f32>>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data().convert::<f32>();
            self.0.push(data.try_to_vec().expect("just converted to f32"));
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    let tensors = model.params().into_iter().zip(values.0);
    tensors.map(|(info, data)| NamedTensor { name: info.name, shape: info.shape, data }).collect()
}

/// Sets every parameter and running statistic of `model` from `tensors`, or none. Names are taken as they are.
///
/// # Errors
/// As [`WeightsFile::load_into`]; [`WeightsError::Values`] also if a tensor's data is not of its shape.
pub fn apply_named(
    model: &mut ResNet,
    tensors: Vec<NamedTensor>,
    head: HeadPolicy,
) -> Result<(), WeightsError> {
    let shapes: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
    let chosen = reconcile::reconcile(model, &shapes, head)?;
    let mut tensors: Vec<_> = tensors.into_iter().map(Some).collect();
    let chosen = chosen.into_iter().filter_map(|index| tensors[index].take());
    let checked = chosen.map(checked).collect::<Result<_, _>>()?;
    set(model, checked);
    Ok(())
}

/// Refuses data of another length than the shape's, and values that would poison every output.
fn checked(tensor: NamedTensor) -> Result<NamedTensor, WeightsError> {
    let NamedTensor { name, shape, data } = &tensor;
    let bad = |reason: String| Err(WeightsError::Values { name: name.clone(), reason });
    if shape.iter().product::<usize>() != data.len() {
        return bad(format!("has {} values, its shape {shape:?} another number", data.len()));
    }
    match data.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(tensor),
        count => bad(format!("holds {count} values that are not finite in f32")),
    }
}

/// Writes tensors that were reconciled with the model into it.
fn set(model: &mut ResNet, tensors: Vec<NamedTensor>) {
    struct Set {
        path: Vec<String>,
        tensors: HashMap<String, Vec<f32>>,
    }
    impl ModuleMapper for Set {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(values) = self.tensors.remove(&self.path.join(".")) else {
                return param;
            };
            let options = (&param.lazy_device(), param.val().dtype());
            let tensor = Tensor::from_data(TensorData::new(values, param.lazy_shape()), options);
            let id = param.id;
            param.transform_for_load(tensor, id)
        }
    }
    let tensors = tensors.into_iter().map(|tensor| (tensor.name, tensor.data)).collect();
    *model = model.clone().map(&mut Set { path: Vec::new(), tensors });
}
