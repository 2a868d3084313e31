//! Finding the network among a file's names, and giving it torchvision's.
//!
//! A checkpoint may nest the weights under a key, beside an optimizer's state (`state_dict.`, `model.`), and wrappers put
//! themselves in front (`module.` of DataParallel, `_orig_mod.` of torch.compile, `backbone.`). What comes before
//! `layer1.0.conv1.weight` is all of that at once.

use super::read::Entry;

const ANCHOR: &str = "layer1.0.conv1.weight";

/// Keys of a checkpoint that hold weights, the preferred first. Beside one of these, other keys are not weights.
const KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema"];

/// The network's tensors, prefixes stripped, in order of name; batch counters, which nothing here uses, are dropped.
///
/// What does not belong to the network keeps its whole name, so that loading finds it left over.
pub(super) fn normalize(mut entries: Vec<Entry>) -> Result<Vec<Entry>, String> {
    let prefix = find_prefix(entries.iter().map(|entry| entry.name.as_str()))?;
    let key = first_segment(&prefix);
    let nested = KEYS.contains(&key);
    entries.retain(|entry| {
        !entry.name.ends_with(".num_batches_tracked") && (!nested || first_segment(&entry.name) == key)
    });
    for entry in &mut entries {
        if let Some(rest) = entry.name.strip_prefix(&prefix) {
            entry.name = rest.to_owned();
        }
    }
    // The CIFAR family's reference code calls its classifier `linear`.
    if !entries.iter().any(|entry| entry.name == "fc.weight") {
        for entry in &mut entries {
            if let Some(rest) = entry.name.strip_prefix("linear.") {
                entry.name = format!("fc.{rest}");
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn find_prefix<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<String, String> {
    let prefixes = names.clone().filter_map(|name| name.strip_suffix(ANCHOR));
    let mut prefixes: Vec<&str> =
        prefixes.filter(|prefix| prefix.is_empty() || prefix.ends_with('.')).collect();
    let rank = |prefix: &str| KEYS.iter().position(|&key| key == first_segment(prefix)).unwrap_or(KEYS.len());
    prefixes.sort_by_key(|prefix| (rank(prefix), prefix.len()));
    match prefixes[..] {
        [] => {
            let mut some: Vec<&str> = names.clone().collect();
            some.sort_unstable();
            some.truncate(3);
            let count = names.count();
            Err(format!(
                "holds no ResNet: none of its {count} tensors is named `{ANCHOR}` ({})",
                some.join(", ")
            ))
        }
        [first, second, ..] if rank(first) == rank(second) => {
            Err(format!("holds several networks, `{first}` and `{second}`: keep one"))
        }
        [first, ..] => Ok(first.to_owned()),
    }
}

fn first_segment(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    fn normalized(names: &[&str]) -> Result<Vec<String>, String> {
        let entry = |name: &&str| Entry {
            name: (*name).into(),
            shape: vec![],
            dtype: DType::F32,
            read: Box::new(|| Ok(vec![])),
        };
        Ok(normalize(names.iter().map(entry).collect())?.into_iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn prefixes_and_keys_are_stripped() {
        for prefix in ["", "module.", "state_dict.", "state_dict.module.", "model._orig_mod.", "backbone."] {
            let names =
                [ANCHOR, "conv1.weight", "bn1.num_batches_tracked"].map(|name| format!("{prefix}{name}"));
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(normalized(&names).unwrap(), ["conv1.weight", ANCHOR], "{prefix}");
        }
    }

    #[test]
    fn beside_a_known_key_the_rest_is_no_weight() {
        let names =
            ["state_dict.layer1.0.conv1.weight", "optimizer.state.0", "state_dict_ema.layer1.0.conv1.weight"];
        assert_eq!(normalized(&names).unwrap(), [ANCHOR]);
        let names = ["module.layer1.0.conv1.weight", "extra.weight"];
        assert_eq!(normalized(&names).unwrap(), ["extra.weight", ANCHOR]);
    }

    #[test]
    fn no_network_and_two_networks_are_refused() {
        assert!(normalized(&["features.0.weight"]).unwrap_err().contains("features.0.weight"));
        let names = ["a.layer1.0.conv1.weight", "b.layer1.0.conv1.weight"];
        assert!(normalized(&names).unwrap_err().contains("several"));
    }
}
