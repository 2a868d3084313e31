//! Writing weights that PyTorch loads strictly: safetensors with torchvision's names (ffcv's where there are blur pools),
//! whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use safetensors::{Dtype, View};

use super::{NamedTensor, WeightsError, blur, to_named};
use crate::resnet::ResNet;

/// Writes every parameter and running statistic of `model` to a safetensors file, in f32.
///
/// `metadata` goes into the file's header, for whoever reads it; `format` (`pt`) and `burn_resnet.config` (the
/// [`ResNetConfig`](crate::ResNetConfig) as JSON) are added. `num_batches_tracked`, which PyTorch wants to find but reads
/// only with a momentum of none, is 0.
///
/// The file appears whole or not at all: it is written beside its place, forced to disk, and renamed.
///
/// # Errors
/// [`WeightsError::Write`].
pub fn save(
    path: impl AsRef<Path>,
    model: &ResNet,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    write(path, model, metadata).map_err(|source| WeightsError::Write { path: path.to_owned(), source })
}

fn write(path: &Path, model: &ResNet, metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let mut views = Vec::new();
    let blurred = blur::convolutions(model);
    let float = |data: Vec<f32>| data.into_iter().flat_map(f32::to_le_bytes).collect();
    for (path, &channels) in &blurred {
        let NamedTensor { name, shape, data } = blur::filter(path, channels);
        views.push((name, Bytes { dtype: Dtype::F32, shape, data: float(data) }));
    }
    for mut tensor in to_named(model) {
        if let Some(norm) = tensor.name.strip_suffix("running_var") {
            let counter = Bytes { dtype: Dtype::I64, shape: vec![], data: 0i64.to_le_bytes().to_vec() };
            views.push((format!("{norm}num_batches_tracked"), counter));
        }
        if let Some(path) = tensor.name.strip_suffix(".weight").filter(|path| blurred.contains_key(*path)) {
            tensor.name = format!("{path}.conv.weight");
        }
        views.push((tensor.name, Bytes { dtype: Dtype::F32, shape: tensor.shape, data: float(tensor.data) }));
    }
    let mut metadata = metadata.clone();
    metadata.insert("format".into(), "pt".into());
    metadata.insert("burn_resnet.config".into(), serde_json::to_string(model.config())?);
    let bytes = safetensors::serialize(views, None).map_err(io::Error::other)?;
    let bytes = with_metadata(&bytes, &metadata)?;

    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; this one is to become an ordinary file (less the umask).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder)?;
    temporary.write_all(&bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    // The rename itself lasts only once the folder is on disk.
    #[cfg(unix)]
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// The file with metadata, in the order of its keys: the `safetensors` crate writes them in a random one, and the same
/// model is to give the same file.
fn with_metadata(file: &[u8], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let (length, rest) = file.split_first_chunk().expect("8 bytes of length come first");
    let (tensors, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header = b"{\"__metadata__\":".to_vec();
    serde_json::to_writer(&mut header, metadata)?;
    header.push(b',');
    header.extend_from_slice(tensors.strip_prefix(b"{").expect("the header is an object"));
    // Tensors begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat())
}

struct Bytes {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        (&self.data).into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}
