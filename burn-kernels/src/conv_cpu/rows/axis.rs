//! Which taps of a kernel meet what, along one axis of the images.

use crate::geometry::Geometry;

/// A tap, and how far from `step` times a target's place the source's place is that it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) number: usize,
    pub(super) offset: isize,
}

/// Places of a target, which are sums over those of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) source: usize,
    pub(super) target: usize,
    /// Places of the source from one to the next of a target's that are met by the same taps.
    pub(super) step: usize,
    /// The taps of every `taps.len()`-th place of the target, in the order of their offsets, which are one apart.
    pub(super) taps: Vec<Vec<Tap>>,
}

impl Axis {
    /// Of the output, over the images: the vertical one is number 0.
    pub(super) fn forward(g: &Geometry, number: usize) -> Self {
        let (source, target) = extents(g, number);
        let taps = (0..g.kernel[number]).map(|tap| Tap { number: tap, offset: distance(tap, g.padding) });
        Self { source, target, step: g.stride, taps: vec![taps.collect()] }
    }

    /// Of the images, over the output.
    pub(super) fn back(g: &Geometry, number: usize) -> Self {
        let (target, source) = extents(g, number);
        let stride = g.stride as isize;
        let taps = (0..g.stride).map(|phase| {
            let taps = (0..g.kernel[number]).rev().map(|tap| (tap, distance(phase + g.padding, tap)));
            let meeting = taps.filter(|(_, distance)| distance.rem_euclid(stride) == 0);
            meeting.map(|(number, distance)| Tap { number, offset: distance.div_euclid(stride) }).collect()
        });
        Self { source, target, step: 1, taps: taps.collect() }
    }

    /// Places of the target that the same taps meet, at most.
    pub(super) fn num_targets(&self) -> usize {
        self.target.div_ceil(self.taps.len())
    }

    /// The least and the greatest offset, and 0.
    pub(super) fn offsets(&self) -> [isize; 2] {
        self.taps
            .iter()
            .flatten()
            .fold([0, 0], |[least, most], tap| [least.min(tap.offset), most.max(tap.offset)])
    }
}

fn extents(g: &Geometry, number: usize) -> (usize, usize) {
    ([g.height, g.width][number], [g.out_height(), g.out_width()][number])
}

fn distance(to: usize, from: usize) -> isize {
    to as isize - from as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_meet_what_the_definition_says() {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (7, 2, 3), (2, 2, 0), (4, 3, 5), (1, 1, 2)] {
            let g = Geometry::new([1, 13, 13, 1], [1, 1, kernel, kernel], stride, padding);
            let (forward, back) = (Axis::forward(&g, 0), Axis::back(&g, 1));
            let meet = |axis: &Axis, is_back: bool| {
                let mut all = vec![];
                for target in 0..axis.target {
                    let (place, phase) = (target / axis.taps.len(), target % axis.taps.len());
                    assert!(axis.taps[phase].windows(2).all(|pair| pair[1].offset == pair[0].offset + 1));
                    for tap in &axis.taps[phase] {
                        let source = (place * axis.step) as isize + tap.offset;
                        if (0..axis.source as isize).contains(&source) {
                            let ends =
                                if is_back { (source as usize, target) } else { (target, source as usize) };
                            all.push((ends, tap.number));
                        }
                    }
                }
                all.sort_unstable();
                all
            };
            let mut expected = vec![];
            for (out, tap) in (0..g.out_height()).flat_map(|out| (0..kernel).map(move |tap| (out, tap))) {
                if let Some(place) = (out * stride + tap).checked_sub(padding).filter(|&place| place < 13) {
                    expected.push(((out, place), tap));
                }
            }
            assert_eq!(meet(&forward, false), expected, "forward of {kernel} by {stride}, {padding}");
            assert_eq!(meet(&back, true), expected, "back of {kernel} by {stride}, {padding}");
        }
    }
}
