//! What of an all-reduce a step has to wait for: gradients leave in buckets while the backward pass still runs.
//!
//! Buckets fill from the last layer to the first and go one after the other; Li et al. 2020, "PyTorch Distributed",
//! [2006.15704](https://arxiv.org/abs/2006.15704), section 4.2.

/// A layer of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Its parameters.
    pub num_params: u64,
    /// Multiply-adds of an image's forward pass; only their proportions count.
    pub num_macs: u64,
}

/// Gradients that travel together.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    /// The share of the backward pass after which they are complete.
    ready: f64,
    bytes: f64,
}

/// The buckets of a network, in the order in which they leave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Buckets(Vec<Bucket>);

impl Buckets {
    /// Fills buckets from the last of `layers` to the first.
    pub(super) fn new(layers: &[Layer], value_bytes: u32, first_bytes: u64, cap_bytes: u64) -> Self {
        let total = layers.iter().map(|layer| layer.num_macs).sum::<u64>().max(1) as f64;
        let mut buckets = Vec::new();
        let (mut done, mut bytes) = (0, 0);
        for (left, layer) in layers.iter().enumerate().rev() {
            done += layer.num_macs;
            bytes += layer.num_params * u64::from(value_bytes);
            let cap = if buckets.is_empty() { first_bytes } else { cap_bytes };
            if bytes > 0 && (bytes >= cap || left == 0) {
                buckets.push(Bucket { ready: done as f64 / total, bytes: bytes as f64 });
                bytes = 0;
            }
        }
        Self(buckets)
    }

    /// Seconds from the end of a backward pass of `backward_s` to the last sum, where `all_reduce_s` is the time of so
    /// many bytes.
    pub(super) fn exposed_s(&self, backward_s: f64, all_reduce_s: impl Fn(f64) -> f64) -> f64 {
        let end = self
            .0
            .iter()
            .fold(0.0_f64, |free, bucket| free.max(bucket.ready * backward_s) + all_reduce_s(bucket.bytes));
        (end - backward_s).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [Layer; 3] = [
        Layer { num_params: 1, num_macs: 50 },
        Layer { num_params: 100, num_macs: 30 },
        Layer { num_params: 200, num_macs: 20 },
    ];

    #[test]
    fn the_last_layer_leaves_first() {
        let buckets = Buckets::new(&LAYERS, 4, 10, 1000);
        assert_eq!(buckets.0, [Bucket { ready: 0.2, bytes: 800.0 }, Bucket { ready: 1.0, bytes: 404.0 }]);
        assert_eq!(Buckets::new(&LAYERS, 2, 1000, 1000).0, [Bucket { ready: 1.0, bytes: 602.0 }]);
    }

    #[test]
    fn what_overlaps_is_not_waited_for() {
        let buckets = Buckets::new(&LAYERS, 4, 10, 1000);
        let at = |bytes_per_s: f64| buckets.exposed_s(1.0, |bytes| bytes / bytes_per_s);
        // The first bucket is through before the backward ends: only the second is exposed.
        assert!((at(1010.0) - 0.4).abs() < 1e-9, "{}", at(1010.0));
        // It is not: the network works from 0.2 on without a pause.
        assert!((at(602.0) - (0.2 + 2.0 - 1.0)).abs() < 1e-9, "{}", at(602.0));
        assert_eq!(at(f64::INFINITY), 0.0);
    }
}
