//! The plan of buckets: which gradients travel together, and in which order. Pure; not the travelling (`flight`).
//!
//! Gradients become ready from the last segment to the first, so buckets are filled in that order, and they are
//! launched by their number: the same sequence on all ranks, whatever the timing. A small first bucket starts the
//! network early, large ones after it spend little on latency: Li et al. 2020, "PyTorch Distributed",
//! [2006.15704](https://arxiv.org/abs/2006.15704), section 4.2. The last bucket is small too, which is not theirs: nothing
//! but its journey is left when the backward pass ends, and there is none to hide it behind.

use crate::error::{DistError, Result};

/// Bytes of a gradient's value while it travels between buffers.
const VALUE_BYTES: usize = size_of::<f32>();

/// How much travels at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketConfig {
    /// Bytes at which the first bucket is full, and the last one.
    pub first_bytes: usize,
    /// Bytes at which every other one is.
    pub cap_bytes: usize,
}

impl Default for BucketConfig {
    /// 1 MiB, then 25 MiB: PyTorch's.
    fn default() -> Self {
        Self { first_bytes: 1 << 20, cap_bytes: 25 << 20 }
    }
}

impl BucketConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { first_bytes, cap_bytes } = *self;
        if first_bytes < VALUE_BYTES || cap_bytes < first_bytes {
            return Err(DistError::config(format!(
                "buckets of {first_bytes} bytes first and {cap_bytes} then: expected at least {VALUE_BYTES}, and the \
                 first no larger than the others"
            )));
        }
        Ok(())
    }
}

/// What the plan has to know of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Values.
    pub(super) len: usize,
    /// The segment of the backward pass that gives its gradient, in forward order.
    pub(super) segment: usize,
}

/// Gradients that travel together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Parameters by their place in the model, in the order in which they lie in the bucket.
    pub(super) params: Vec<usize>,
    /// Values.
    pub(super) len: usize,
}

/// Every parameter's bucket. A function of the parameters alone, never of which of them have a gradient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketPlan {
    pub(super) buckets: Vec<Bucket>,
    /// The bucket of each parameter.
    pub(super) bucket_of: Vec<usize>,
}

impl BucketPlan {
    /// Fills buckets from the last segment to the first, within a segment from the last parameter to the first.
    ///
    /// A bucket is closed before what would not fit any more: before a whole segment, so that it need not wait for the
    /// next one's backward, and before a parameter. What is larger than a bucket has one of its own. It is also closed
    /// before the first segments of the network that together fit into a small one: in a convolutional network these
    /// have few parameters and take much of the backward pass.
    pub(super) fn new(parts: &[Part], config: &BucketConfig) -> Self {
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&param| std::cmp::Reverse((parts[param].segment, param)));

        let mut left = parts.iter().map(|part| part.len).sum::<usize>();
        let mut is_tail = false;
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut open = Bucket { params: Vec::new(), len: 0 };
        let close = |open: &mut Bucket, buckets: &mut Vec<Bucket>| {
            if !open.params.is_empty() {
                buckets.push(std::mem::replace(open, Bucket { params: Vec::new(), len: 0 }));
            }
        };
        for segment in order.chunk_by(|&a, &b| parts[a].segment == parts[b].segment) {
            let whole = segment.iter().map(|&param| parts[param].len).sum::<usize>();
            if !is_tail && left <= config.first_bytes / VALUE_BYTES {
                is_tail = true;
                close(&mut open, &mut buckets);
            }
            left -= whole;
            for (at, &param) in segment.iter().enumerate() {
                let bytes = if buckets.is_empty() { config.first_bytes } else { config.cap_bytes };
                let cap = bytes / VALUE_BYTES;
                let len = parts[param].len;
                let comes = if at == 0 { whole } else { len };
                if open.len + comes > cap {
                    close(&mut open, &mut buckets);
                }
                open.params.push(param);
                open.len += len;
            }
        }
        close(&mut open, &mut buckets);
        let mut bucket_of = vec![0; parts.len()];
        for (number, bucket) in buckets.iter().enumerate() {
            bucket.params.iter().for_each(|&param| bucket_of[param] = number);
        }
        Self { buckets, bucket_of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lens: &[(usize, usize)], first: usize, cap: usize) -> Vec<Vec<usize>> {
        let parts: Vec<_> = lens.iter().map(|&(len, segment)| Part { len, segment }).collect();
        let config = BucketConfig { first_bytes: first * VALUE_BYTES, cap_bytes: cap * VALUE_BYTES };
        let plan = BucketPlan::new(&parts, &config);
        for (number, bucket) in plan.buckets.iter().enumerate() {
            assert_eq!(bucket.len, bucket.params.iter().map(|&param| parts[param].len).sum::<usize>());
            assert!(bucket.params.iter().all(|&param| plan.bucket_of[param] == number));
        }
        plan.buckets.into_iter().map(|bucket| bucket.params).collect()
    }

    #[test]
    fn buckets_are_filled_from_the_end_and_the_first_is_small() {
        let lens = [(4, 0), (4, 0), (4, 0), (4, 0), (4, 0)];
        assert_eq!(plan(&lens, 4, 8), [vec![4], vec![3, 2], vec![1, 0]]);
        assert_eq!(plan(&lens, 8, 8), [vec![4, 3], vec![2, 1], vec![0]]);
        assert_eq!(plan(&lens, 100, 100), [vec![4, 3, 2, 1, 0]]);
    }

    #[test]
    fn what_is_larger_than_a_bucket_has_its_own() {
        assert_eq!(plan(&[(2, 0), (50, 0), (2, 0)], 4, 8), [vec![2], vec![1], vec![0]]);
        assert_eq!(plan(&[(50, 0)], 4, 8), [vec![0]]);
    }

    /// Without the rule the first bucket would hold 2 and 1, and wait for segment 0's backward.
    #[test]
    fn a_bucket_does_not_wait_for_a_segment_that_does_not_fit_whole() {
        assert_eq!(plan(&[(4, 0), (4, 0), (4, 1)], 8, 8), [vec![2], vec![1, 0]]);
        // A segment that fits nowhere is cut where a bucket is full.
        assert_eq!(plan(&[(4, 0), (4, 0), (4, 0), (4, 1)], 8, 8), [vec![3], vec![2, 1], vec![0]]);
    }

    /// Without the rule 3 to 0 would travel together, once segment 0's backward is done.
    #[test]
    fn what_is_ready_last_travels_by_itself_if_it_is_small() {
        let lens = [(2, 0), (2, 1), (4, 2), (4, 3)];
        assert_eq!(plan(&lens, 4, 100), [vec![3], vec![2], vec![1, 0]]);
        assert_eq!(plan(&lens, 3, 100), [vec![3], vec![2, 1], vec![0]]);
        assert_eq!(plan(&lens, 1, 100), [vec![3], vec![2, 1, 0]]);
    }

    /// The order of the segments decides, not that of the parameters: fields need not stand in forward order.
    #[test]
    fn later_segments_come_first_wherever_their_parameters_stand() {
        assert_eq!(plan(&[(4, 1), (4, 0), (4, 2)], 4, 4), [vec![2], vec![0], vec![1]]);
    }

    /// What makes launching by number follow readiness: no bucket needs a segment earlier than any that a later bucket
    /// needs.
    #[test]
    fn every_value_is_in_one_bucket_and_segments_never_go_up() {
        let mut random = 1u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        for _ in 0..300 {
            let lens: Vec<_> = (0..below(30)).map(|_| (below(40) as usize, below(5) as usize)).collect();
            let (first, cap) = (1 + below(20) as usize, 20 + below(40) as usize);
            let buckets = plan(&lens, first, cap);
            let order: Vec<_> = buckets.iter().flatten().copied().collect();
            let segments: Vec<_> = order.iter().map(|&param| lens[param].1).collect();
            assert!(segments.is_sorted_by(|a, b| a >= b), "{segments:?}");
            let mut sorted = order;
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..lens.len()));
            for (number, bucket) in buckets.iter().enumerate() {
                let len = bucket.iter().map(|&param| lens[param].0).sum::<usize>();
                assert!(len <= if number == 0 { first } else { cap } || bucket.len() == 1, "{buckets:?}");
            }
        }
    }

    #[test]
    fn buckets_of_nothing_are_refused() {
        assert!(BucketConfig::default().check().is_ok());
        assert!(BucketConfig { first_bytes: 0, cap_bytes: 8 }.check().is_err());
        assert!(BucketConfig { first_bytes: 16, cap_bytes: 8 }.check().is_err());
    }
}
