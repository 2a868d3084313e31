//! Who owns which part of a buffer: a function of its length and the number of parts alone.

use std::ops::Range;

/// The part `index` of `whole` in `num_parts` parts whose lengths differ by at most one; nothing from `num_parts` on.
pub(crate) fn chunk(whole: &Range<usize>, num_parts: usize, index: usize) -> Range<usize> {
    if index >= num_parts {
        return whole.end..whole.end;
    }
    let length = whole.len();
    let at = |index: usize| whole.start + (length / num_parts) * index + (length % num_parts).min(index);
    at(index)..at(index + 1)
}

/// Cuts `range` into segments of `length` and a shorter last one.
pub(crate) fn segments(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(length).map(move |start| start..end.min(start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_in_order() {
        for length in [0, 1, 2, 3, 7, 1023, 1 << 20] {
            for num_parts in [1, 2, 3, 5, 16, 1024] {
                let whole = 10..10 + length;
                let mut at = 10;
                for index in 0..num_parts {
                    let part = chunk(&whole, num_parts, index);
                    assert_eq!(part.start, at);
                    assert!(part.len() <= length.div_ceil(num_parts));
                    at = part.end;
                }
                assert_eq!(at, whole.end);
                assert!(chunk(&whole, num_parts, num_parts).is_empty());
            }
        }
    }

    #[test]
    fn segments_cover_a_range() {
        let all: Vec<_> = segments(3..14, 4).collect();
        assert_eq!(all, [3..7, 7..11, 11..14]);
        assert_eq!(segments(5..5, 4).count(), 0);
    }
}
