//! The backward pass in segments, so that gradients can leave while the rest of it still runs.
//!
//! The graph is cut before every block. A segment's gradients are complete when its own backward returns; on a device
//! that works asynchronously they are then enqueued, and the host is already at the next segment. Burn has no gradient
//! hooks, and this needs none.

use burn::module::{ParamId, list_param_ids};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::resnet::ResNet;

/// What a pass computed on the way, off the graph.
#[derive(Debug, Clone)]
pub struct Staged {
    /// `[batch, num_classes]`.
    pub logits: Tensor<2>,
    /// What the caller's loss returned, `[1]`.
    pub loss: Tensor<1>,
}

impl ResNet {
    /// Parameters of each segment, in forward order: the stem, every block, the classifier.
    ///
    /// Running statistics are left out.
    #[must_use]
    pub fn segments(&self) -> Vec<Vec<ParamId>> {
        let buffers: Vec<ParamId> = self.params().into_iter().filter(|p| p.is_buffer).map(|p| p.id).collect();
        let trainable = |mut ids: Vec<ParamId>| {
            ids.retain(|id| !buffers.contains(id));
            ids
        };
        let stem = list_param_ids(&(self.conv1.clone(), self.bn1.clone()));
        let blocks = self.blocks().map(|block| trainable(list_param_ids(block)));
        let head = list_param_ids(&self.fc);
        std::iter::once(trainable(stem)).chain(blocks).chain([head]).collect()
    }
}

/// Forward and backward; hands each segment's gradients to `ready(segment, gradients)` as soon as they exist, the
/// classifier's first (segment `blocks + 1`), the stem's last (segment 0).
///
/// `loss` turns logits into the number to be minimised, weighted and scaled as the caller likes. The gradients are the
/// same bits as those of `loss(model.forward(images)).backward()`: cutting multiplies by a one. A parameter that does not
/// require a gradient is left out of its segment; below the last trainable one, `ready` gets empty segments.
///
/// # Shapes
/// `images` is `[batch, channels, height, width]`, on the model's autodiff device.
///
/// # Panics
/// If `images` is not on an autodiff device, or `loss` does not depend on the logits, or as [`ResNet::forward`].
///
/// # Cost
/// One multiplication of every block's input more than the whole backward.
pub fn backward_staged(
    model: &ResNet,
    images: Tensor<4>,
    loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
    mut ready: impl FnMut(usize, GradientsParams),
) -> Staged {
    let segments = model.segments();
    // (what a segment gave, the leaves that the next one took in its place: for its convolutions, for its shortcut)
    let mut cuts: Vec<(Tensor<4>, [Tensor<4>; 2])> = Vec::with_capacity(segments.len());
    let cut = |output: Tensor<4>, cuts: &mut Vec<_>| {
        let leaves = [(); 2].map(|()| output.clone().detach().require_grad());
        cuts.push((output, leaves.clone()));
        leaves
    };
    let mut x = cut(model.stem(images), &mut cuts);
    for block in model.blocks() {
        let [main, shortcut] = x;
        x = cut(block.forward_from(main, shortcut), &mut cuts);
    }
    let [x, _] = x;
    let logits = model.head(x);
    let loss = loss(logits.clone());

    let mut grads = loss.backward();
    ready(cuts.len(), GradientsParams::from_params(&mut grads, model, &segments[cuts.len()]));
    while let Some((output, leaves)) = cuts.pop() {
        let segment = cuts.len();
        // Two leaves and their sum, not one: where a tensor is used twice Burn adds on one core.
        let gradients = leaves.iter().filter_map(|leaf| leaf.grad_remove(&mut grads));
        grads = match gradients.reduce(burn_kernels::add) {
            Some(gradient) if output.is_tracked() => burn_kernels::seed_gradient(output, gradient).backward(),
            _ => {
                ready(segment, GradientsParams::new());
                continue;
            }
        };
        ready(segment, GradientsParams::from_params(&mut grads, model, &segments[segment]));
    }
    Staged { logits: logits.without_autodiff(), loss: loss.without_autodiff() }
}
