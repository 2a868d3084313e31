//! The running statistics of each rank's batch norms. Averaged they belong to the network; inside an epoch every rank goes
//! on with its own, so a checkpoint made there holds them all, or a resumed run would not be the one that never stopped.

use burn_dist::Communicator;
use burn_resnet::{
    ResNet,
    weights::{self, HeadPolicy},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::error::{Error, Result};

/// The running statistics of a rank's networks, the trained one and perhaps its average, one after the other in the
/// networks' order, as the bytes of 32-bit floats.
pub(super) fn of<'a>(networks: impl Iterator<Item = &'a ResNet>) -> Vec<u8> {
    let values = networks.flat_map(|network| weights::to_named(network).into_iter().zip(network.params()));
    let buffers = values.filter(|(_, info)| info.is_buffer);
    buffers.flat_map(|(tensor, _)| tensor.data.into_iter().flat_map(f32::to_le_bytes)).collect()
}

/// Every rank's [`of`].
pub(super) fn gather<'a>(
    comm: &Communicator,
    networks: impl Iterator<Item = &'a ResNet>,
) -> Result<Vec<Vec<u8>>> {
    let mine = of(networks);
    Ok(comm.all_gather_bytes(&mine, mine.len())?)
}

/// Sets what [`of`] gave.
pub(super) fn set(networks: &mut [&mut ResNet], bytes: &[u8]) -> Result<()> {
    let (values, rest) = bytes.as_chunks::<4>();
    let mut values = values.iter().map(|&value| f32::from_le_bytes(value));
    for network in networks {
        let mut tensors = weights::to_named(network);
        for (tensor, _) in tensors.iter_mut().zip(network.params()).filter(|(_, info)| info.is_buffer) {
            tensor.data = values.by_ref().take(tensor.data.len()).collect();
        }
        weights::apply_named(network, tensors, HeadPolicy::Strict)?;
    }
    if values.next().is_some() || !rest.is_empty() {
        return Err(Error::run(
            "the checkpoint's running statistics are of another network: too many values",
        ));
    }
    Ok(())
}

/// All ranks' as one `.safetensors` file.
pub(super) fn to_bytes(by_rank: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut views = Vec::with_capacity(by_rank.len());
    for (rank, bytes) in by_rank.iter().enumerate() {
        let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map_err(Error::run)?;
        views.push((format!("rank.{rank}"), view));
    }
    safetensors::serialize(views, None).map_err(Error::run)
}

/// What [`to_bytes`] gave.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let wrong = |why: String| Error::run(format!("the checkpoint's running statistics are damaged: {why}"));
    let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
    let of_rank = |rank: usize| file.tensor(&format!("rank.{rank}")).map(|view| view.data().to_vec());
    (0..file.len()).map(|rank| of_rank(rank).map_err(|error| wrong(error.to_string()))).collect()
}
