//! Which places of an epoch's order are in which batch of a rank, and what is made of the pictures there.

use std::ops::Range;

use burn_dist::rank::Rank;

use super::{rect::Rectangles, sampler::Plan, transform::Transform};

/// The batches of one rank.
#[derive(Debug)]
pub(super) enum Batches {
    /// As the sampler cuts them, all images alike.
    Alike(Plan, Transform),
    /// The chunks of a rectangular validation, dealt to the ranks in turn: a rank has one more than another at most,
    /// and none if there are fewer chunks than ranks.
    Rectangles { chunks: Rectangles, rank: Rank, resize: usize },
}

impl Batches {
    /// The batches of this rank.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Alike(plan, _) => plan.num_batches(),
            Self::Rectangles { chunks, rank, .. } => {
                chunks.shapes().len().saturating_sub(rank.index()).div_ceil(rank.world_size().count())
            }
        }
    }

    /// The places of batch `batch` in the order, and how its images are made.
    pub(super) fn get(&self, batch: usize) -> (Range<usize>, Transform) {
        match self {
            Self::Alike(plan, transform) => (plan.positions(batch), *transform),
            Self::Rectangles { chunks, rank, resize } => {
                let chunk = batch * rank.world_size().count() + rank.index();
                let (width, height) = chunks.shapes()[chunk];
                (chunks.positions(chunk), Transform::CenterRectangle { width, height, resize: *resize })
            }
        }
    }
}
