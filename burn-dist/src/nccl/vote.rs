//! Whether gradients go by NCCL: one decision for all ranks, from what each says of itself, and the line that says why not.

use serde::{Deserialize, Serialize};

use crate::{Communicator, agree, error::Result};

/// Of what a rank says.
const MAX_WORD_BYTES: usize = 1024;
/// A reason is cut here, so that a word stays below its bound however it is written.
const MAX_REASON_BYTES: usize = 300;

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// There is nothing for NCCL to do: its model is not on a CUDA GPU, or the program was built without.
    Unconcerned(String),
    /// It could be done by NCCL, but for this.
    Cannot(String),
    /// The GPU's number, the same in every process.
    Ready { gpu: [u8; 16] },
}

/// What all ranks do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Gradients go by NCCL.
    Nccl,
    /// They go as everything else does; why, if somebody could have gone by NCCL.
    Tcp(Option<String>),
}

/// Takes a vote; all ranks decide alike.
///
/// # Errors
/// The [`Fault`](crate::Fault) that ended the job.
///
/// # Cost
/// Some hundred bytes a rank to all others.
pub(crate) fn vote(comm: &Communicator, mine: &Word) -> Result<Decision> {
    let mine = match mine.clone() {
        Word::Unconcerned(why) => Word::Unconcerned(agree::cut(&why, MAX_REASON_BYTES).into()),
        Word::Cannot(why) => Word::Cannot(agree::cut(&why, MAX_REASON_BYTES).into()),
        ready => ready,
    };
    let mine = serde_json::to_vec(&mine).unwrap_or_default();
    let all = comm.all_gather_bytes(&mine, MAX_WORD_BYTES)?;
    let word = |bytes: &Vec<u8>| {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Word::Cannot("it does not say whether it can".into()))
    };
    let words: Vec<Word> = all.iter().map(word).collect();
    Ok(decide(&words, &|rank| agree::name(comm, rank)))
}

/// NCCL if every rank is ready, each with a GPU of its own.
fn decide(words: &[Word], name: &dyn Fn(usize) -> String) -> Decision {
    if words.iter().all(|word| matches!(word, Word::Unconcerned(_))) {
        return Decision::Tcp(None);
    }
    let obstacle = |(rank, word): (usize, &Word)| match word {
        Word::Unconcerned(why) | Word::Cannot(why) => Some((rank, why.clone())),
        Word::Ready { .. } => None,
    };
    let obstacles: Vec<_> = words.iter().enumerate().filter_map(obstacle).collect();
    if let Some((rank, why)) = obstacles.first() {
        let others = match obstacles.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more ranks)"),
        };
        return Decision::Tcp(Some(format!("{}: {why}{others}", name(*rank))));
    }
    let shared = (1..words.len()).find_map(|rank| {
        let first = words[..rank].iter().position(|word| *word == words[rank])?;
        Some(format!("ranks {first} and {rank} share a GPU, which NCCL does not do"))
    });
    shared.map_or(Decision::Nccl, |why| Decision::Tcp(Some(why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, WorldSize};

    fn ready(gpu: u8) -> Word {
        Word::Ready { gpu: [gpu; 16] }
    }

    fn cannot(why: &str) -> Word {
        Word::Cannot(why.into())
    }

    fn unconcerned(why: &str) -> Word {
        Word::Unconcerned(why.into())
    }

    fn decided(words: &[Word]) -> Decision {
        decide(words, &|rank| format!("rank {rank} on host"))
    }

    #[test]
    fn all_must_be_ready_each_with_its_own_gpu() {
        assert_eq!(decided(&[ready(1), ready(2), ready(3)]), Decision::Nccl);
        let shared = "ranks 1 and 2 share a GPU, which NCCL does not do";
        assert_eq!(decided(&[ready(1), ready(2), ready(2)]), Decision::Tcp(Some(shared.into())));
    }

    #[test]
    fn the_first_obstacle_is_named_and_others_are_counted() {
        let one = decided(&[ready(1), cannot("no libnccl"), ready(3)]);
        assert_eq!(one, Decision::Tcp(Some("rank 1 on host: no libnccl".into())));
        let three = decided(&[cannot("no libnccl"), unconcerned("no GPU"), cannot("no libnccl"), ready(1)]);
        assert_eq!(three, Decision::Tcp(Some("rank 0 on host: no libnccl (and 2 more ranks)".into())));
        let mixed = decided(&[ready(1), unconcerned("its model is not on a CUDA GPU")]);
        assert_eq!(mixed, Decision::Tcp(Some("rank 1 on host: its model is not on a CUDA GPU".into())));
    }

    #[test]
    fn nobody_hears_of_nccl_where_nobody_could_use_it() {
        assert_eq!(decided(&[unconcerned("a"), unconcerned("b")]), Decision::Tcp(None));
    }

    /// What happens where one rank has no library: over a real mesh, all say the same.
    #[test]
    fn ranks_decide_alike_whoever_cannot() {
        let long = "x".repeat(5000);
        let words = [ready(1), cannot(&long), cannot("no libnccl.so.2")];
        let mesh = Communicator::local_mesh(WorldSize::new(3).unwrap(), &Config::default()).unwrap();
        let decisions: Vec<Decision> = std::thread::scope(|scope| {
            let ranks = mesh.iter().zip(&words);
            let ranks: Vec<_> = ranks.map(|(comm, word)| scope.spawn(|| vote(comm, word).unwrap())).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let Decision::Tcp(Some(why)) = &decisions[0] else { panic!("{decisions:?}") };
        assert!(why.starts_with("rank 1 on ") && why.ends_with("xxx (and 1 more ranks)"), "{why}");
        assert!(why.len() < 400, "{}", why.len());
        assert!(decisions.iter().all(|decision| decision == &decisions[0]));
    }
}
