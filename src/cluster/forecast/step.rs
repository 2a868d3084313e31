//! What of an all-reduce a step has to wait for: gradients leave in buckets while the backward pass still runs.
//!
//! Buckets fill from the last layer to the first and go one after the other; Li et al. 2020, "PyTorch Distributed",
//! [2006.15704](https://arxiv.org/abs/2006.15704), section 4.2. The last one is small, as `burn-dist` has it.

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
    /// Fills buckets from the last of `layers` to the first: closes one before what would not fit any more, and before
    /// the first layers that together fit into a small one.
    pub(super) fn new(layers: &[Layer], value_bytes: u32, small_bytes: u64, cap_bytes: u64) -> Self {
        let bytes_of = |layer: &Layer| layer.num_params * u64::from(value_bytes);
        let total = layers.iter().map(|layer| layer.num_macs).sum::<u64>().max(1) as f64;
        let mut left: u64 = layers.iter().map(bytes_of).sum();
        let mut buckets = Vec::new();
        let (mut done, mut open, mut is_tail) = (0, 0, false);
        let close = |open: &mut u64, done: u64, buckets: &mut Vec<Bucket>| {
            if *open > 0 {
                buckets.push(Bucket { ready: done as f64 / total, bytes: std::mem::take(open) as f64 });
            }
        };
        for layer in layers.iter().rev() {
            let bytes = bytes_of(layer);
            let cap = if buckets.is_empty() { small_bytes } else { cap_bytes };
            if open + bytes > cap || (!is_tail && left <= small_bytes) {
                close(&mut open, done, &mut buckets);
            }
            is_tail |= left <= small_bytes;
            left -= bytes;
            open += bytes;
            done += layer.num_macs;
        }
        close(&mut open, done, &mut buckets);
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
        let bucket = |ready, bytes| Bucket { ready, bytes };
        // What is too large for a small bucket has one of its own; 101 parameters fit into the second.
        assert_eq!(Buckets::new(&LAYERS, 4, 3, 1000).0, [bucket(0.2, 800.0), bucket(1.0, 404.0)]);
        // The first layer fits into a small one.
        let small = [bucket(0.2, 800.0), bucket(0.5, 400.0), bucket(1.0, 4.0)];
        assert_eq!(Buckets::new(&LAYERS, 4, 10, 1000).0, small);
        // So do all, and in one piece they wait for everything.
        assert_eq!(Buckets::new(&LAYERS, 2, 1000, 1000).0, [bucket(1.0, 602.0)]);
        // Nor does a third layer fit beside the second.
        let two = [bucket(0.2, 800.0), bucket(0.5, 400.0), bucket(1.0, 4.0)];
        assert_eq!(Buckets::new(&LAYERS, 4, 3, 400).0, two);
    }

    #[test]
    fn what_overlaps_is_not_waited_for() {
        let buckets = Buckets::new(&LAYERS, 4, 3, 1000);
        let at = |bytes_per_s: f64| buckets.exposed_s(1.0, |bytes| bytes / bytes_per_s);
        // The first bucket is through before the backward ends: only the second is exposed.
        assert!((at(1010.0) - 0.4).abs() < 1e-9, "{}", at(1010.0));
        // It is not: the network works from 0.2 on without a pause.
        assert!((at(602.0) - (0.2 + 2.0 - 1.0)).abs() < 1e-9, "{}", at(602.0));
        assert_eq!(at(f64::INFINITY), 0.0);
    }
}
