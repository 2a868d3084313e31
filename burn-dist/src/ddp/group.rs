//! Whether a step's buckets go from GPU to GPU: all ranks decide alike, and one line says why they do not where some could.

use super::{gpu::Group, gpu::Offer, pack::Packer};
use crate::{
    Communicator,
    error::Result,
    nccl::vote::{Decision, Word, vote},
    rank::WorldSize,
};

/// The GPUs of all ranks as one group; `None` if gradients go over TCP.
///
/// # Errors
/// The [`Fault`](crate::Fault) that ended the job: also if all could, but NCCL does not find its way between them.
pub(super) fn form(comm: &Communicator, packer: Option<&Packer>) -> Result<Option<Group>> {
    if !comm.may_use_nccl() || comm.rank().world_size() == WorldSize::ONE {
        return Ok(None);
    }
    let offer = match packer {
        Some(packer) => Offer::of(comm, packer),
        None => Err(Word::Unconcerned("its buckets are put together on the host".into())),
    };
    let word = match &offer {
        Ok(offer) => Word::Ready { gpu: offer.gpu() },
        Err(word) => word.clone(),
    };
    match (vote(comm, &word)?, offer) {
        (Decision::Nccl, Ok(offer)) => offer.join(comm).map(Some),
        (Decision::Nccl, Err(_)) => Ok(None),
        (Decision::Tcp(why), _) => {
            // One rank says it for all.
            if let Some(why) = why.filter(|_| comm.rank().is_main()) {
                eprintln!("burn-dist: gradients go over TCP and not by NCCL: {why}");
            }
            Ok(None)
        }
    }
}
