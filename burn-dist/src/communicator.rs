//! The public handle: a rank of a job, and what it can do together with the others.

use std::{fmt, ops::Range, sync::Arc, time::Instant};

#[cfg(any(feature = "nccl", test))]
use crate::outside::Outside;
use crate::{
    assemble::assemble,
    builder::Builder,
    collective::{chunk::chunk, doubling, hierarchical, ring},
    config::{Algorithm, Config, Wire},
    control::Farewell,
    engine::{Call, Carried, Engine},
    error::{DistError, Fault, Result},
    flight::FlightRecorder,
    job::Job,
    pending::{Note, Pending, Reduced},
    rank::{Rank, WorldSize},
    rendezvous::{Meeting, Member},
    topology::Topology,
    wire::number::{Element, ReduceOp},
};

/// How a vote is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Yes if all say yes.
    All,
    /// Yes if anyone does.
    Any,
}

/// A rank of a job. Clones are the same rank; its operations are carried out one after the other, in the order of the
/// calls, which must be the same on all ranks.
///
/// After an error of kind [`DistError::Fault`] the job is over: every later call returns it again. Dropping the last
/// clone tells the others that this rank is done.
#[derive(Clone)]
pub struct Communicator {
    rank: Rank,
    job: Option<Arc<Job>>,
}

impl Communicator {
    /// A job of one process. No socket, no thread: every operation returns at once.
    pub fn single() -> Self {
        Self { rank: Rank::SINGLE, job: None }
    }

    /// Settings for a job of several processes.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A whole job inside this process, over loopback: rank i at place i, each for a thread of its own. For tests and
    /// for trying things out.
    ///
    /// # Errors
    /// Settings that cannot be followed; a system that gives no sockets.
    pub fn local_mesh(world_size: WorldSize, config: &Config) -> Result<Vec<Self>> {
        crate::builder::local_mesh(world_size, config)
    }

    pub(crate) fn connect(config: &Config, meeting: Meeting) -> Result<Self> {
        let rank = meeting.rank;
        let assembled = assemble(meeting, config, Instant::now())?;
        Ok(Self { rank, job: Some(Arc::new(Job::new(assembled, config))) })
    }

    /// Which rank this is, of how many.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Who takes part, by rank; empty for a job of one.
    pub fn members(&self) -> &[Member] {
        self.job.as_ref().map_or(&[], |job| &job.roster.members)
    }

    /// The verdict that ended the job, if it is over.
    pub fn fault(&self) -> Option<Arc<Fault>> {
        self.job.as_ref().and_then(|job| job.control.fault())
    }

    /// Whether nothing is said against NCCL.
    #[cfg(feature = "burn")]
    pub(crate) fn may_use_nccl(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.agreed.nccl)
    }

    /// Whether its connections are encrypted.
    #[cfg(feature = "nccl")]
    pub(crate) fn is_encrypted(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.is_encrypted)
    }

    /// How its numbers of 32 bits travel.
    pub fn wire(&self) -> Wire {
        self.job.as_ref().map_or(Wire::F32, |job| job.agreed.wire)
    }

    /// Combines the values of all ranks, element by element, in place: all ranks get the same bits.
    ///
    /// # Errors
    /// The [`Fault`] that ended the job; what is in `data` then is not defined.
    ///
    /// # Cost
    /// Up to `small_bytes`: log2 n steps. Beyond: 2 (n - 1) steps and 2 (n - 1) / n S bytes a rank, or the two levels'
    /// cost where several ranks share a machine.
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let Some(job) = &self.job else { return Ok(()) };
        job.now(|engine| all_reduce(engine, &job.topology, data, op, Note::default())).map(drop)
    }

    /// The same, in the background: the buffer, a `Vec` or whatever else has such values, comes back with the result.
    /// Several may be under way; they are carried out in the order in which they were started.
    pub fn start_all_reduce<T: Element, B: AsMut<[T]> + Send + 'static>(
        &self,
        mut data: B,
        op: ReduceOp,
        note: Note,
    ) -> Pending<B> {
        let Some(job) = &self.job else {
            return Pending::done(Ok(reduced(
                data,
                Carried { not_finite: note.not_finite, ..Carried::default() },
            )));
        };
        let topology = job.topology.clone();
        job.start(move |engine| {
            let carried = all_reduce(engine, &topology, data.as_mut(), op, note)?;
            Ok(reduced(data, carried))
        })
    }

    /// Starts what is carried out elsewhere; it comes back when it is through.
    #[cfg(any(feature = "nccl", test))]
    pub(crate) fn start_outside<O: Outside + 'static>(
        &self,
        what: String,
        bytes: usize,
        mut operation: O,
    ) -> Pending<O> {
        let Some(job) = &self.job else {
            return Pending::done(Err(DistError::usage(format!("{what}: there is no other rank"))));
        };
        job.start(move |engine| {
            let carried = engine.run_outside(what, bytes, &mut operation)?;
            Ok(reduced(operation, carried))
        })
    }

    /// Combines the values of all ranks; this rank gets the part that is returned, the rest of `data` is not defined.
    /// Part i of rank i: equal lengths, the first ones longer by one where it does not divide.
    ///
    /// # Errors
    /// The [`Fault`] that ended the job.
    ///
    /// # Cost
    /// n - 1 steps, (n - 1) / n S bytes a rank.
    pub fn reduce_scatter<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<Range<usize>> {
        let world_size = self.rank.world_size().count();
        let own = chunk(&(0..data.len()), world_size, self.rank.index());
        let Some(job) = &self.job else { return Ok(own) };
        let what = format!("reduce-scatter ({}) of {} {}", op.name(), data.len(), T::NAME);
        let ring = &job.topology.ring;
        job.now(|engine| {
            let call = Call {
                what,
                op,
                wire: engine.agreed.wire,
                striped: false,
                computed_by_all: false,
                not_finite: false,
            };
            engine.run(call, data, &|schedule, whole| {
                ring::reduce_scatter(schedule, ring, |index| chunk(&whole, world_size, index), true);
            })
        })?;
        Ok(own)
    }

    /// Gives all ranks the part i of rank i; parts as in [`reduce_scatter`](Self::reduce_scatter).
    ///
    /// # Errors
    /// The [`Fault`] that ended the job.
    ///
    /// # Cost
    /// n - 1 steps, (n - 1) / n S bytes a rank.
    pub fn all_gather<T: Element>(&self, data: &mut [T]) -> Result<()> {
        let world_size = self.rank.world_size().count();
        let whole = 0..data.len();
        self.gather_parts(data, "", |index| chunk(&whole, world_size, index))
    }

    fn gather_parts<T: Element>(
        &self,
        data: &mut [T],
        what: &str,
        part: impl Fn(usize) -> Range<usize> + Sync,
    ) -> Result<()> {
        let Some(job) = &self.job else { return Ok(()) };
        let what = format!("all-gather{what} of {} {}", data.len(), T::NAME);
        let ring = &job.topology.ring;
        job.now(|engine| {
            engine.run(exact(what), data, &|schedule, _| ring::all_gather(schedule, ring, &part))
        })
        .map(drop)
    }

    /// Gives all ranks what each has to say, by rank. Lengths may differ.
    ///
    /// # Errors
    /// [`DistError::Usage`] on every rank if one has more than `max_bytes`, which names it; the [`Fault`] that ended
    /// the job.
    ///
    /// # Cost
    /// Two all-gathers: of the lengths, of the bytes.
    pub fn all_gather_bytes(&self, mine: &[u8], max_bytes: usize) -> Result<Vec<Vec<u8>>> {
        let (rank, world_size) = (self.rank.index(), self.rank.world_size().count());
        let mut lengths = vec![0u64; world_size];
        lengths[rank] = mine.len() as u64;
        self.gather_parts(&mut lengths, " (lengths)", |index| index..index + 1)?;
        if let Some(talker) = lengths.iter().position(|&length| length > max_bytes as u64) {
            let length = lengths[talker];
            return Err(DistError::usage(format!(
                "rank {talker} gave {length} bytes to an all-gather of at most {max_bytes} a rank"
            )));
        }
        let starts: Vec<usize> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, &length| {
                *end += length as usize;
                Some(*end)
            }))
            .collect();
        let part = |index: usize| starts[index]..starts[index + 1];
        let mut all = vec![0u8; starts[world_size]];
        all[part(rank)].copy_from_slice(mine);
        self.gather_parts(&mut all, "", part)?;
        Ok((0..world_size).map(|rank| all[part(rank)].to_vec()).collect())
    }

    /// Gives all ranks what rank `root` has.
    ///
    /// # Errors
    /// [`DistError::Usage`] for a root outside the job; the [`Fault`] that ended the job.
    ///
    /// # Cost
    /// S bytes a rank, in a pipeline around the ring.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: usize) -> Result<()> {
        let world_size = self.rank.world_size();
        if root >= world_size.count() {
            return Err(DistError::usage(format!("a broadcast from rank {root} in a job of {world_size}")));
        }
        let Some(job) = &self.job else { return Ok(()) };
        let what = format!("broadcast from rank {root} of {} {}", data.len(), T::NAME);
        let ring = &job.topology.ring;
        job.now(|engine| {
            let call = Call { striped: true, ..exact(what) };
            engine.run(call, data, &|schedule, whole| ring::broadcast(schedule, ring, whole, root))
        })
        .map(drop)
    }

    /// Waits until all ranks have called it.
    ///
    /// # Errors
    /// The [`Fault`] that ended the job.
    ///
    /// # Cost
    /// log2 n steps.
    pub fn barrier(&self) -> Result<()> {
        self.count("barrier".into(), 0, ReduceOp::Max).map(drop)
    }

    /// Takes a vote: all ranks get the same answer.
    ///
    /// # Errors
    /// The [`Fault`] that ended the job.
    ///
    /// # Cost
    /// log2 n steps.
    pub fn vote(&self, mine: bool, vote: Vote) -> Result<bool> {
        let (what, op) = match vote {
            Vote::All => ("vote (all)", ReduceOp::Min),
            Vote::Any => ("vote (any)", ReduceOp::Max),
        };
        Ok(self.count(what.into(), u8::from(mine), op)? != 0)
    }

    fn count(&self, what: String, mine: u8, op: ReduceOp) -> Result<u8> {
        let mut byte = [mine];
        let Some(job) = &self.job else { return Ok(mine) };
        let (rank, world_size) = (job.topology.rank, job.topology.world_size);
        job.now(|engine| {
            let call = Call { op, computed_by_all: true, ..exact(what) };
            engine.run(call, &mut byte, &|schedule, whole| {
                doubling::all_reduce(schedule, rank, world_size, whole);
            })
        })?;
        Ok(byte[0])
    }

    /// Sends bytes from rank `from` to rank `to` and back, over one connection; other ranks only count the operation.
    /// Returns the seconds that it took here. Any two ranks can do it in a job with [`Agreed::full_mesh`], neighbours in
    /// every job.
    ///
    /// # Errors
    /// [`DistError::Usage`] if the two are no two ranks of the job, or have no connection; the [`Fault`] that ended
    /// the job.
    ///
    /// [`Agreed::full_mesh`]: crate::Agreed::full_mesh
    pub fn round_trip(&self, data: &mut [u8], from: usize, to: usize) -> Result<f64> {
        let world_size = self.rank.world_size();
        let Some(job) = self.job.as_ref().filter(|_| from.max(to) < world_size.count() && from != to) else {
            return Err(DistError::usage(format!(
                "a round trip between ranks {from} and {to} of {world_size}"
            )));
        };
        let (from, to, rank) = (from as u32, to as u32, job.topology.rank);
        let what = format!("round trip of {} bytes between ranks {from} and {to}", data.len());
        job.now(|engine| {
            if !job.topology.are_linked(from, to, &engine.agreed) {
                return Err(DistError::usage(format!("{what}: they have no connection without full_mesh")));
            }
            let carried = engine.run(exact(what), data, &|schedule, whole| {
                ring::round_trip(schedule, rank, from, to, whole);
            })?;
            Ok(carried.seconds)
        })
    }

    /// Tells the others that this rank failed, and why, in one line: their calls return it. The job is over.
    pub fn fail(&self, why: &str) {
        if let Some(job) = &self.job {
            job.control.leave(Farewell::Failed(why.into()));
        }
    }

    /// The last operations of this rank, for whoever wants to write them down; `None` for a job of one.
    pub fn flight_recorder(&self) -> Option<Arc<FlightRecorder>> {
        self.job.as_ref().map(|job| Arc::clone(&job.flight))
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("rank", &self.rank).finish_non_exhaustive()
    }
}

fn reduced<B>(data: B, carried: Carried) -> Reduced<B> {
    let Carried { not_finite, seconds, wait_s } = carried;
    Reduced { data, not_finite, seconds, wait_s }
}

/// An operation whose values arrive as they were.
fn exact(what: String) -> Call {
    Call {
        what,
        op: ReduceOp::Max,
        wire: Wire::F32,
        striped: false,
        computed_by_all: false,
        not_finite: false,
    }
}

fn all_reduce<T: Element>(
    engine: &mut Engine,
    topology: &Topology,
    data: &mut [T],
    op: ReduceOp,
    note: Note,
) -> Result<Carried> {
    let bucket = if note.bucket > 0 { format!(", bucket {}", note.bucket) } else { String::new() };
    let what = format!("all-reduce ({}) of {} {}{bucket}", op.name(), data.len(), T::NAME);
    let algorithm = topology.algorithm(&engine.agreed, size_of_val(data));
    let call = Call {
        what,
        op,
        wire: engine.agreed.wire,
        striped: algorithm != Algorithm::Doubling,
        computed_by_all: algorithm == Algorithm::Doubling,
        not_finite: note.not_finite,
    };
    engine.run(call, data, &|schedule, whole| match algorithm {
        Algorithm::Doubling => doubling::all_reduce(schedule, topology.rank, topology.world_size, whole),
        Algorithm::Hierarchical => hierarchical::all_reduce(schedule, &topology.levels, whole),
        Algorithm::Ring | Algorithm::Auto => ring::all_reduce(schedule, &topology.ring, whole),
    })
}
