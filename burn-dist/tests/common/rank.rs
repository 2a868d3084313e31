//! A rank's side of a test: a script of words is carried out, and what happens is said on standard output, one line
//! each, marked with `@`.

use std::{
    io::{BufRead, Write},
    time::Duration,
};

use burn_dist::{Communicator, DistError, Note, ReduceOp, Vote};
use rustix::process::{Signal, set_parent_process_death_signal};

/// The variable with the script.
pub(crate) const SCRIPT: &str = "TEST_RANK_SCRIPT";
pub(crate) const HEARTBEAT_MS: &str = "TEST_RANK_HEARTBEAT_MS";
pub(crate) const SILENCE_MS: &str = "TEST_RANK_SILENCE_MS";
pub(crate) const STALL_MS: &str = "TEST_RANK_STALL_MS";
pub(crate) const OPERATION_MS: &str = "TEST_RANK_OPERATION_MS";

/// Carries the script out: words with a number behind a colon where there is one.
///
/// | word | |
/// |---|---|
/// | `say:x` | says `@x` |
/// | `ask` | waits for a line from the test |
/// | `reduce:n`, `broadcast:n`, `gather:n`, `scatter:n`, `vote`, `barrier` | one operation on n numbers, its result checked |
/// | `reduces:n` | all-reduces until the job is over |
/// | `start:n` | an all-reduce in the background that nobody waits for |
/// | `exit:c`, `panic`, `fail` | the end, in different ways; the end of the script is a normal one |
pub(crate) fn run() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    // Whatever happens to the test, nothing of it goes on.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let comm = match connect() {
        Ok(comm) => comm,
        // Others connected earlier, and one of them is gone already.
        Err(DistError::Fault(fault)) => {
            say(&format!("fault {}", serde_json::to_string(&*fault).unwrap()));
            return say("poisoned");
        }
        Err(error) => return say(&format!("error {error}")),
    };
    say("formed");
    for word in script.split_whitespace() {
        let Err(error) = step(&comm, word) else { continue };
        match &error {
            DistError::Fault(fault) => {
                say(&format!("fault {}", serde_json::to_string(&**fault).unwrap()));
                // The first cause again, whatever is called.
                match comm.barrier() {
                    Err(DistError::Fault(again)) if again == *fault => say("poisoned"),
                    other => say(&format!("not poisoned: {other:?}")),
                }
            }
            other => say(&format!("error {other}")),
        }
        return;
    }
    drop(comm);
    say("done");
}

fn connect() -> Result<Communicator, DistError> {
    let builder = Communicator::builder().from_env()?;
    let mut timeouts = builder.settings().timeouts;
    let set = |name: &str, clock: &mut Duration| {
        if let Ok(millis) = std::env::var(name) {
            *clock = Duration::from_millis(millis.parse().unwrap());
        }
    };
    set(HEARTBEAT_MS, &mut timeouts.heartbeat);
    set(SILENCE_MS, &mut timeouts.silence);
    set(STALL_MS, &mut timeouts.stall_report);
    set(OPERATION_MS, &mut timeouts.operation);
    builder.timeouts(timeouts).connect()
}

/// A line of its own, even behind the test harness' half one.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    write!(out, "\n@{text}\n").and_then(|()| out.flush()).unwrap();
}

fn step(comm: &Communicator, word: &str) -> Result<(), DistError> {
    let (name, argument) = word.split_once(':').unwrap_or((word, ""));
    let count = || argument.parse::<usize>().unwrap();
    let (rank, world_size) = (comm.rank().index(), comm.rank().world_size().count());
    match name {
        "say" => say(argument),
        "ask" => drop(std::io::stdin().lock().read_line(&mut String::new()).unwrap()),
        "reduce" => reduce(comm, count())?,
        "reduces" => loop {
            reduce(comm, count())?;
        },
        "start" => drop(comm.start_all_reduce(numbers(rank, count()), ReduceOp::Sum, Note::default())),
        "broadcast" => {
            let mut data = numbers(rank, count());
            comm.broadcast(&mut data, world_size - 1)?;
            assert!(data == numbers(world_size - 1, count()), "a wrong broadcast");
        }
        "gather" => {
            for (from, bytes) in
                comm.all_gather_bytes(&vec![rank as u8; count() + rank], 1 << 20)?.iter().enumerate()
            {
                assert!(*bytes == vec![from as u8; count() + from], "a wrong all-gather");
            }
        }
        "scatter" => {
            let mut data = numbers(rank, count());
            let own = comm.reduce_scatter(&mut data, ReduceOp::Sum)?;
            assert!(data[own.clone()] == sum(world_size, count())[own], "a wrong reduce-scatter");
        }
        "vote" => assert!(!comm.vote(rank != 0, Vote::All)?, "a wrong vote"),
        "barrier" => comm.barrier()?,
        "exit" => std::process::exit(argument.parse().unwrap()),
        "panic" => panic!("as the script says"),
        "fail" => comm.fail("the disk is full"),
        other => panic!("no such word: {other}"),
    }
    Ok(())
}

fn reduce(comm: &Communicator, count: usize) -> Result<(), DistError> {
    let mut data = numbers(comm.rank().index(), count);
    comm.all_reduce(&mut data, ReduceOp::Sum)?;
    assert!(data == sum(comm.rank().world_size().count(), count), "a wrong all-reduce");
    Ok(())
}

/// Small whole numbers: their sum is exact in any order.
fn numbers(rank: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7 + rank * 31) % 251) as f32).collect()
}

fn sum(world_size: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| (0..world_size).map(|rank| ((at * 7 + rank * 31) % 251) as f32).sum()).collect()
}
