//! Comparing the tensors on offer with those of the model, by name and shape, before any value is looked at.

use std::collections::HashMap;
use std::fmt;

use super::{HeadPolicy, WeightsError};
use crate::depth::Depth;
use crate::resnet::ResNet;

/// Names shown of each kind of disagreement; the rest is counted.
const SHOWN: usize = 3;

/// How the tensors on offer differ from the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The model's depth.
    pub depth: Depth,
    /// Names the model has and the weights have not.
    pub missing: Vec<String>,
    /// Names the weights have and the model has not.
    pub left_over: Vec<String>,
    /// Names both have, with the weights' shape and the model's.
    pub other_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.other_shape.iter();
        let shapes = shapes.map(|(name, file, model)| format!("{name} {file:?} for {model:?}"));
        let kinds = [
            ("missing", self.missing.clone()),
            ("left over", self.left_over.clone()),
            ("of another shape", shapes.collect()),
        ];
        let said = kinds.iter().filter(|(_, items)| !items.is_empty()).map(|(kind, items)| {
            let more = items.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let shown = &items[..items.len().min(SHOWN)];
            format!("{} {kind} ({}{more})", items.len(), shown.join(", "))
        });
        let said: Vec<String> = said.collect();
        write!(f, "the weights are not those of this ResNet-{}: {}", self.depth, said.join("; "))
    }
}

impl std::error::Error for Mismatch {}

/// Which of `offered` go into the model, or why they do not fit.
pub(super) fn reconcile(
    model: &ResNet,
    offered: &[(&str, &[usize])],
    head: HeadPolicy,
) -> Result<Vec<usize>, WeightsError> {
    let mut index: HashMap<&str, usize> =
        offered.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
    let mut chosen = Vec::new();
    let mut wrong = Mismatch {
        depth: model.config().depth(),
        missing: Vec::new(),
        left_over: Vec::new(),
        other_shape: Vec::new(),
    };
    for param in model.params() {
        match index.remove(param.name.as_str()) {
            None => wrong.missing.push(param.name),
            Some(i) if offered[i].1 == param.shape => chosen.push(i),
            Some(i) => wrong.other_shape.push((param.name, offered[i].1.to_vec(), param.shape)),
        }
    }
    wrong.left_over = index.into_keys().map(str::to_owned).collect();
    wrong.left_over.sort();

    let other_classes = wrong.missing.is_empty() && other_classes(&wrong);
    let no_head = wrong.other_shape.is_empty() && wrong.missing == ["fc.weight", "fc.bias"];
    if !wrong.left_over.is_empty() {
        return Err(WeightsError::Mismatch(Box::new(wrong)));
    }
    match head {
        _ if wrong.missing.is_empty() && wrong.other_shape.is_empty() => Ok(chosen),
        HeadPolicy::Reinit if other_classes || no_head => Ok(chosen),
        HeadPolicy::Strict if other_classes => Err(WeightsError::HeadMismatch {
            expected_classes: wrong.other_shape[0].2[0],
            got_classes: wrong.other_shape[0].1[0],
        }),
        _ => Err(WeightsError::Mismatch(Box::new(wrong))),
    }
}

/// Whether the shapes differ in the number of classes and in nothing else.
fn other_classes(wrong: &Mismatch) -> bool {
    match &wrong.other_shape[..] {
        [(weight, got, expected), (bias, got_bias, _)] => {
            weight == "fc.weight"
                && bias == "fc.bias"
                && got.len() == 2
                && got[1] == expected[1]
                && got_bias[..] == got[..1]
        }
        _ => false,
    }
}
