//! Opening a file: which kind it is, what tensors it names, and how to get the bytes of one. Nothing is interpreted.
//!
//! Every length a file states is compared with what the file has before memory is taken for it. PyTorch's formats are
//! parsed by `pytorch-reader`, which executes nothing and bounds a pickle's size, nesting and copies.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use burn::store::pytorch_reader::{self, PytorchError, PytorchReader};
use burn::tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::WeightsError;

/// Four times a ResNet-152 in f64 with its optimizer's state.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// The format's own limit on the JSON in front of the tensors.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A tensor in a file, its bytes not yet read.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) read: Box<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}

/// A file's size, names, types and shapes of its tensors, and what it says of itself.
pub(super) struct Opened {
    pub(super) num_bytes: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Opens either kind of file.
pub(super) fn open(path: &Path) -> Result<Opened, WeightsError> {
    let failed = |source| WeightsError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let num_bytes = file.metadata().map_err(failed)?.len();
    if num_bytes > FILE_BYTES_MAX {
        let path = path.to_owned();
        return Err(WeightsError::TooLarge {
            path,
            got_bytes: num_bytes,
            expected_bytes_max: FILE_BYTES_MAX,
        });
    }
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(9).read_to_end(&mut start).map_err(failed)?;
    match start.split_first_chunk() {
        Some((&length, [b'{'])) => open_safetensors(path, file, u64::from_le_bytes(length), num_bytes),
        _ => Ok(Opened { num_bytes, entries: open_pytorch(path)?, metadata: BTreeMap::new() }),
    }
}

fn open_safetensors(
    path: &Path,
    mut file: File,
    header_bytes: u64,
    num_bytes: u64,
) -> Result<Opened, WeightsError> {
    let unreadable = |reason: String| WeightsError::Unreadable { path: path.to_owned(), reason };
    let data_start = header_bytes.saturating_add(8);
    if header_bytes > HEADER_BYTES_MAX || data_start > num_bytes {
        return Err(unreadable(format!(
            "it announces a header of {header_bytes} bytes, and has {num_bytes} in all"
        )));
    }
    let mut header = vec![0; header_bytes as usize];
    let read = file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut header));
    read.map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|e| unreadable(format!("its header: {e}")))?;
    let data_bytes = num_bytes - data_start;
    if header.data_len() as u64 != data_bytes {
        let expected = header.data_len();
        return Err(unreadable(format!(
            "its tensors take {expected} bytes, it has {data_bytes}: is it whole?"
        )));
    }

    let file = Arc::new(Mutex::new(file));
    let tensors = header.tensors().into_iter().map(|(name, info)| {
        let dtype = from_safetensors(info.dtype).ok_or_else(|| {
            unreadable(format!("{name} is of type {:?}, which no weights have", info.dtype))
        })?;
        let (start, end) = info.data_offsets;
        let (file, offset) = (file.clone(), data_start + start as u64);
        let read = move || {
            // A poisoned lock only means that another read panicked: the position is set anew each time.
            let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut bytes = vec![0; end - start];
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        Ok(Entry { name, shape: info.shape.clone(), dtype, read: Box::new(read) })
    });
    let entries = tensors.collect::<Result<_, WeightsError>>()?;
    let metadata = header.metadata().iter().flatten();
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(Opened { num_bytes, entries, metadata })
}

fn open_pytorch(path: &Path) -> Result<Vec<Entry>, WeightsError> {
    let reader = PytorchReader::new(path).map_err(|e| match e {
        PytorchError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            WeightsError::Read { path: path.to_owned(), source }
        }
        e => {
            let reason = e.to_string().lines().next().unwrap_or_default().chars().take(200).collect();
            WeightsError::Unreadable { path: path.to_owned(), reason }
        }
    })?;
    let tensors = reader.into_tensors().into_iter().map(|(name, tensor)| {
        let (_, dtype, shape, read) = tensor.into_parts();
        Entry { name, shape, dtype: from_pytorch(dtype), read: Box::new(read) }
    });
    Ok(tensors.collect())
}

fn from_pytorch(dtype: pytorch_reader::DType) -> DType {
    use pytorch_reader::DType as P;
    match dtype {
        P::F64 => DType::F64,
        P::F32 => DType::F32,
        P::F16 => DType::F16,
        P::BF16 => DType::BF16,
        P::I64 => DType::I64,
        P::I32 => DType::I32,
        P::I16 => DType::I16,
        P::I8 => DType::I8,
        P::U64 => DType::U64,
        P::U32 => DType::U32,
        P::U16 => DType::U16,
        P::U8 | P::Bool => DType::U8,
    }
}

fn from_safetensors(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => return None,
    })
}
