//! A stand-in for the communicator, threads of one process only. Not to be merged.
#![allow(missing_docs, missing_debug_implementations)]

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use crate::{Config, DistError, Fault, FaultKind, Rank, Result, WorldSize, error::Who};

pub trait Element: bytemuck::Pod + Send + Sync {
    fn from_f64(v: f64) -> Self;
    fn to_f64(self) -> f64;
}
macro_rules! element { ($($t:ty),*) => { $(impl Element for $t {
    fn from_f64(v: f64) -> Self { v as Self }
    fn to_f64(self) -> f64 { self as f64 }
})* } }
element!(f32, f64, u8, u32, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    Sum,
    Mean,
    Max,
    Min,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
}
#[derive(Debug, Clone, Copy, Default)]
pub struct Note {
    pub bucket: u32,
    pub not_finite: bool,
}
#[derive(Debug)]
pub struct Reduced<T> {
    pub data: Vec<T>,
    pub not_finite: bool,
    pub seconds: f64,
}

#[derive(Default)]
struct Slot {
    what: String,
    parts: Vec<Option<(Vec<u8>, bool)>>,
    taken: usize,
}
#[derive(Default)]
struct Hub {
    slots: HashMap<u64, Slot>,
    fault: Option<Arc<Fault>>,
}
struct Shared {
    hub: Mutex<Hub>,
    changed: Condvar,
}
#[derive(Clone)]
pub struct Communicator {
    rank: Rank,
    shared: Arc<Shared>,
    seq: Arc<Mutex<u64>>,
    members: Arc<Vec<Member>>,
}
#[derive(Debug)]
pub struct Pending<T> {
    comm: Communicator,
    seq: Result<u64>,
    op: ReduceOp,
    data: Vec<T>,
    start: Instant,
}
impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator({})", self.rank)
    }
}

#[derive(Debug, Clone)]
pub struct Member {
    pub rank: u32,
    pub host: String,
    pub host_id: u64,
}
#[derive(Debug, Default)]
pub struct Builder;
impl Builder {
    pub fn from_env(self) -> Result<Self> {
        Ok(self)
    }
    pub fn connect(self) -> Result<Communicator> {
        Ok(Communicator::single())
    }
}

impl Communicator {
    pub fn builder() -> Builder {
        Builder
    }
    pub fn members(&self) -> &[Member] {
        &self.members
    }
    pub fn single() -> Self {
        Self::local_mesh(WorldSize::ONE, &Config::default()).unwrap().remove(0)
    }
    pub fn local_mesh(world: WorldSize, _: &Config) -> Result<Vec<Self>> {
        let shared = Arc::new(Shared { hub: Mutex::default(), changed: Condvar::new() });
        Ok((0..world.count() as u32)
            .map(|i| Self {
                rank: Rank::new(i, world).unwrap(),
                shared: shared.clone(),
                seq: Arc::default(),
                members: Arc::new(
                    (0..world.count() as u32)
                        .filter(|_| world != WorldSize::ONE)
                        .map(|rank| Member { rank, host: "here".into(), host_id: 1 })
                        .collect(),
                ),
            })
            .collect())
    }
    pub fn rank(&self) -> Rank {
        self.rank
    }
    fn put(&self, what: String, bytes: Vec<u8>, flag: bool) -> Result<u64> {
        let mut seq = self.seq.lock().unwrap();
        *seq += 1;
        let mut hub = self.shared.hub.lock().unwrap();
        if let Some(f) = &hub.fault {
            return Err(DistError::Fault(f.clone()));
        }
        let n = self.rank.world_size().count();
        let slot = hub.slots.entry(*seq).or_default();
        if slot.parts.is_empty() {
            slot.parts = vec![None; n];
            slot.what = what.clone();
        }
        if slot.what != what {
            let detail = format!("{what} and {}", slot.what);
            hub.fault = Some(Arc::new(Fault {
                kind: FaultKind::Mismatch,
                culprits: vec![self.who()],
                op: None,
                detail,
            }));
            self.shared.changed.notify_all();
            return Err(DistError::Fault(hub.fault.clone().unwrap()));
        }
        slot.parts[self.rank.index()] = Some((bytes, flag));
        self.shared.changed.notify_all();
        Ok(*seq)
    }
    fn get(&self, seq: u64) -> Result<Vec<(Vec<u8>, bool)>> {
        let mut hub = self.shared.hub.lock().unwrap();
        loop {
            let n = self.rank.world_size().count();
            let done = hub.slots.get(&seq).is_some_and(|s| s.parts.iter().all(Option::is_some));
            if done {
                let slot = hub.slots.get_mut(&seq).unwrap();
                let parts = slot.parts.iter().cloned().map(Option::unwrap).collect();
                slot.taken += 1;
                if slot.taken == n {
                    hub.slots.remove(&seq);
                }
                return Ok(parts);
            }
            if let Some(f) = &hub.fault {
                return Err(DistError::Fault(f.clone()));
            }
            hub = self.shared.changed.wait(hub).unwrap();
        }
    }
    fn who(&self) -> Who {
        Who { rank: self.rank.index() as u32, host: "here".into() }
    }
    pub fn start_all_reduce<T: Element>(&self, data: Vec<T>, op: ReduceOp, note: Note) -> Pending<T> {
        let what = format!("{op:?} {} {}", data.len(), note.bucket);
        let seq = self.put(what, bytemuck::cast_slice(&data).to_vec(), note.not_finite);
        Pending { comm: self.clone(), seq, op, data, start: Instant::now() }
    }
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let reduced = self.start_all_reduce(data.to_vec(), op, Note::default()).wait()?;
        data.copy_from_slice(&reduced.data);
        Ok(())
    }
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: usize) -> Result<()> {
        let mine = if self.rank.index() == root { bytemuck::cast_slice(data).to_vec() } else { Vec::new() };
        let seq = self.put(format!("broadcast {} {root}", data.len()), mine, false)?;
        let parts = self.get(seq)?;
        bytemuck::cast_slice_mut::<T, u8>(data).copy_from_slice(&parts[root].0);
        Ok(())
    }
    pub fn all_gather_bytes(&self, mine: &[u8], max_bytes: usize) -> Result<Vec<Vec<u8>>> {
        assert!(mine.len() <= max_bytes);
        let seq = self.put(format!("gather {max_bytes}"), mine.to_vec(), false)?;
        Ok(self.get(seq)?.into_iter().map(|p| p.0).collect())
    }
    pub fn barrier(&self) -> Result<()> {
        let seq = self.put("barrier".into(), vec![], false)?;
        self.get(seq).map(drop)
    }
    pub fn vote(&self, mine: bool, vote: Vote) -> Result<bool> {
        let seq = self.put(format!("{vote:?}"), vec![], mine)?;
        let parts = self.get(seq)?;
        Ok(match vote {
            Vote::All => parts.iter().all(|p| p.1),
            Vote::Any => parts.iter().any(|p| p.1),
        })
    }
    pub fn fail(&self, why: &str) {
        let mut hub = self.shared.hub.lock().unwrap();
        hub.fault.get_or_insert_with(|| {
            Arc::new(Fault {
                kind: FaultKind::Failed,
                culprits: vec![self.who()],
                op: None,
                detail: why.into(),
            })
        });
        self.shared.changed.notify_all();
    }
    pub fn leave(self) -> Result<()> {
        Ok(())
    }
}

impl<T: Element> Pending<T> {
    pub fn wait(mut self) -> Result<Reduced<T>> {
        let parts = self.comm.get(self.seq?)?;
        let n = parts.len();
        let not_finite = parts.iter().any(|p| p.1);
        for (i, out) in self.data.iter_mut().enumerate() {
            let values = parts.iter().map(|p| {
                bytemuck::pod_read_unaligned::<T>(&p.0[i * size_of::<T>()..][..size_of::<T>()]).to_f64()
            });
            *out = T::from_f64(match self.op {
                ReduceOp::Sum => values.sum(),
                ReduceOp::Mean => values.sum::<f64>() / n as f64,
                ReduceOp::Max => values.fold(f64::NEG_INFINITY, f64::max),
                ReduceOp::Min => values.fold(f64::INFINITY, f64::min),
            });
        }
        Ok(Reduced { data: self.data, not_finite, seconds: self.start.elapsed().as_secs_f64() })
    }
}
