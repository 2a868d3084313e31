//! Blur pools in a state dict, under ffcv's names: where torchvision has a convolution `layer2.0.conv2.weight`, a blurred
//! one has `layer2.0.conv2.conv.weight` and the buffer `layer2.0.conv2.blur_filter`. A network without blur pools cannot
//! load such a file by accident, nor one with them a file without.

use std::collections::BTreeMap;

use super::read::Entry;
use super::{Mismatch, NamedTensor, WeightsError};
use crate::blur::FILTER;
use crate::resnet::ResNet;

const FILTER_SUFFIX: &str = ".blur_filter";

/// The blurred convolutions of `model` with their input channels.
pub(super) fn convolutions(model: &ResNet) -> BTreeMap<String, usize> {
    let stages = [&model.layer1, &model.layer2, &model.layer3, &model.layer4];
    let blocks = stages.into_iter().zip(1..).flat_map(|(blocks, stage)| {
        blocks.iter().enumerate().map(move |(index, block)| (format!("layer{stage}.{index}"), block))
    });
    let convolutions = blocks.flat_map(|(path, block)| {
        let named = [("conv1", Some(&block.conv1)), ("conv2", Some(&block.conv2))];
        let rest =
            [("conv3", block.conv3.as_ref()), ("downsample.0", block.downsample.as_ref().map(|d| &d.0))];
        let blurred = named.into_iter().chain(rest).filter_map(|(name, conv)| Some((name, conv?)));
        blurred.filter(|(_, conv)| conv.blurs).map(move |(name, conv)| (format!("{path}.{name}"), conv))
    });
    convolutions.map(|(path, conv)| (path, conv.weight.lazy_shape()[1])).collect()
}

/// The filter of the convolution at `path`.
pub(super) fn filter(path: &str, channels: usize) -> NamedTensor {
    NamedTensor {
        name: format!("{path}{FILTER_SUFFIX}"),
        shape: vec![channels, 1, 3, 3],
        data: FILTER.repeat(channels),
    }
}

/// Takes the filters out of `entries`, and gives the convolutions behind them torchvision's names.
pub(super) fn take_filters(entries: &mut Vec<Entry>) -> Vec<Entry> {
    let filters: Vec<_> = entries.extract_if(.., |entry| entry.name.ends_with(FILTER_SUFFIX)).collect();
    for filter in &filters {
        let path = filter.name.trim_end_matches(FILTER_SUFFIX);
        let wrapped = format!("{path}.conv.weight");
        for entry in entries.iter_mut().filter(|entry| entry.name == wrapped) {
            entry.name = format!("{path}.weight");
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    filters
}

/// Checks that `filters` are those of `model`'s blur pools, by name and shape.
///
/// # Errors
/// [`WeightsError::Mismatch`].
pub(super) fn compare(model: &ResNet, filters: &[Entry]) -> Result<(), WeightsError> {
    let mut expected: BTreeMap<_, _> = convolutions(model)
        .into_iter()
        .map(|(path, channels)| filter(&path, channels))
        .map(|filter| (filter.name, filter.shape))
        .collect();
    let (mut left_over, mut other_shape) = (Vec::new(), Vec::new());
    for Entry { name, shape, .. } in filters {
        match expected.remove(name) {
            None => left_over.push(name.clone()),
            Some(model) if model != *shape => other_shape.push((name.clone(), shape.clone(), model)),
            Some(_) => {}
        }
    }
    if expected.is_empty() && left_over.is_empty() && other_shape.is_empty() {
        return Ok(());
    }
    let (depth, missing) = (model.config().depth(), expected.into_keys().collect());
    Err(WeightsError::Mismatch(Box::new(Mismatch { depth, missing, left_over, other_shape })))
}

/// Refuses a filter of other values than this one's.
pub(super) fn check(filter: &NamedTensor) -> Result<(), WeightsError> {
    if filter.data.chunks(FILTER.len()).all(|channel| channel == FILTER) {
        return Ok(());
    }
    let reason = "is another filter than [1 2 1] / 4 along both sides".into();
    Err(WeightsError::Values { name: filter.name.clone(), reason })
}
