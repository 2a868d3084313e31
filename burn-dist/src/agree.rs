//! Ranks that must be alike, compared: who is not is named, in the same words on all ranks. Every function is collective.

use crate::{
    Communicator,
    error::{DistError, Result},
};

pub(crate) use crate::wire::checksum::hash;

/// A list of tensors that one rank shows the others once they know that they differ.
const MAX_LIST_BYTES: usize = 4 << 20;
/// What one rank says of itself in an error.
const MAX_SAYING_BYTES: usize = 512;

/// Checks that `text` is the same on all ranks; `what` says in the plural what it describes.
///
/// # Errors
/// [`DistError::Disagreement`] names the ranks that differ from most, and each one's first line that does; the
/// [`Fault`](crate::Fault) that ended the job.
///
/// # Cost
/// 8 bytes a rank where all are alike.
pub fn same_lines(comm: &Communicator, what: &str, text: &str) -> Result<()> {
    let hashes = comm.all_gather_bytes(&hash([text.as_bytes()]).to_le_bytes(), size_of::<u64>())?;
    let Some((reference, strays)) = strays(&hashes) else { return Ok(()) };
    let mine = if comm.rank().index() == reference { cut(text, MAX_LIST_BYTES) } else { "" };
    let lists = comm.all_gather_bytes(mine.as_bytes(), MAX_LIST_BYTES)?;
    let expected = String::from_utf8_lossy(&lists[reference]);
    let difference = if strays.contains(&comm.rank().index()) {
        first_difference(text, &expected, reference)
    } else {
        String::new()
    };
    let said = say(comm, &difference)?;
    Err(DistError::Disagreement(format!("{what} differ: {said}; every rank must be given the same")))
}

/// Checks that a number, such as a hash, is the same on all ranks; `what` says in the plural what it is of.
///
/// # Errors
/// [`DistError::Disagreement`] names the ranks that differ from most; the [`Fault`](crate::Fault) that ended the job.
///
/// # Cost
/// 8 bytes a rank.
pub fn same_number(comm: &Communicator, what: &str, mine: u64) -> Result<()> {
    let hashes = comm.all_gather_bytes(&mine.to_le_bytes(), size_of::<u64>())?;
    let Some((reference, strays)) = strays(&hashes) else { return Ok(()) };
    let word = |rank: usize| hashes[rank].iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    heard_by_all(comm);
    let odd: Vec<_> = strays.iter().map(|&rank| format!("{} has {}", name(comm, rank), word(rank))).collect();
    Err(DistError::Disagreement(format!(
        "{what} differ: {} where rank {reference} has {}",
        odd.join(", "),
        word(reference)
    )))
}

/// Every rank's word on itself, in one line: `rank 2 on host: ...; rank 5 on host: ...`. Ranks that say nothing are left
/// out; of a word 512 bytes count. Returns when all ranks have it: one that ends the job over it takes it from nobody.
///
/// # Errors
/// The [`Fault`](crate::Fault) that ended the job.
///
/// # Cost
/// The words' bytes to all ranks, and a barrier.
pub fn say(comm: &Communicator, mine: &str) -> Result<String> {
    let all = comm.all_gather_bytes(cut(mine, MAX_SAYING_BYTES).as_bytes(), MAX_SAYING_BYTES)?;
    heard_by_all(comm);
    let said = all.iter().enumerate().filter(|(_, words)| !words.is_empty());
    let line = |(rank, words): (usize, &Vec<u8>)| {
        format!("{}: {}", name(comm, rank), String::from_utf8_lossy(words))
    };
    Ok(said.map(line).collect::<Vec<_>>().join("; "))
}

/// Waits until every rank has what was gathered before. That is known here already, so should the job end now, it is
/// the next operation that tells.
fn heard_by_all(comm: &Communicator) {
    let _ = comm.barrier();
}

/// A rank, as a person can find it.
pub(crate) fn name(comm: &Communicator, rank: usize) -> String {
    match comm.members().get(rank) {
        Some(member) => format!("rank {rank} on {}", member.host),
        None => format!("rank {rank}"),
    }
}

/// A rank of the largest group and those that are not in it; of groups of the same size the one with the lowest rank
/// counts. `None` if all are alike.
fn strays<T: PartialEq>(values: &[T]) -> Option<(usize, Vec<usize>)> {
    let votes = |value: &T| values.iter().filter(|other| *other == value).count();
    let reference = (0..values.len()).max_by_key(|&rank| (votes(&values[rank]), std::cmp::Reverse(rank)))?;
    let strays: Vec<_> = (0..values.len()).filter(|&rank| values[rank] != values[reference]).collect();
    (!strays.is_empty()).then_some((reference, strays))
}

/// Where two lists of lines part.
fn first_difference(mine: &str, expected: &str, reference: usize) -> String {
    let (mut mine, mut expected) = (mine.lines(), expected.lines());
    loop {
        return match (mine.next(), expected.next()) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => format!("`{}` where rank {reference} has `{}`", cut(a, 200), cut(b, 200)),
            (Some(a), None) => format!("`{}` which rank {reference} does not have", cut(a, 200)),
            (None, Some(b)) => format!("lacks `{}` of rank {reference}", cut(b, 200)),
            (None, None) => format!("differs from rank {reference} beyond what was compared"),
        };
    }
}

/// The longest beginning of at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_group_is_right_and_of_equals_the_one_with_the_lowest_rank() {
        assert_eq!(strays(&[1, 1, 1]), None);
        assert_eq!(strays(&[1, 2, 1]), Some((0, vec![1])));
        assert_eq!(strays(&[1, 2, 2]), Some((1, vec![0])));
        assert_eq!(strays(&[3, 4]), Some((0, vec![1])));
        assert_eq!(strays(&[5, 1, 2, 1, 2]), Some((1, vec![0, 2, 4])));
    }

    #[test]
    fn the_first_line_that_differs_is_shown() {
        assert_eq!(first_difference("a\nb", "a\nc", 3), "`b` where rank 3 has `c`");
        assert_eq!(first_difference("a\nb", "a", 3), "`b` which rank 3 does not have");
        assert_eq!(first_difference("a", "a\nb", 3), "lacks `b` of rank 3");
    }
}
