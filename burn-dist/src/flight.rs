//! The flight recorder: the last operations of this rank, and where the present one stands. Others ask it what this
//! rank was doing; it is written to a file when the job ends by a fault. Not a trace: see [`crate::trace`].

use std::{
    collections::VecDeque,
    fs, io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Fault, OpName},
    limits::FLIGHT_RECORDS,
};

/// An operation that this rank called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRecord {
    /// The operation.
    #[serde(flatten)]
    pub name: OpName,
    /// The same on two ranks exactly if they called the same operation on the same layout.
    pub fingerprint: u64,
    /// Bytes of this rank's buffer.
    pub bytes: u64,
    /// Microseconds from the communicator's start to the call.
    pub begin_us: u64,
    /// To its end; `None` while it is under way.
    pub end_us: Option<u64>,
}

/// Where a rank stands, as its heartbeat says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// The operation under way, with its fingerprint and how long it has been so, in milliseconds.
    pub now: Option<(OpName, u64, u64)>,
    /// The last operation that this rank called, whether or not it ended; 0 before the first.
    pub last_seq: u64,
}

/// What a rank writes down when a job ends by a fault, or when it is asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightRecord {
    /// Whose it is.
    pub rank: u32,
    /// Why the job ended, if it has.
    pub fault: Option<Fault>,
    /// Its last operations, oldest first.
    pub operations: Vec<OpRecord>,
}

/// The recorder of one rank.
#[derive(Debug)]
pub struct FlightRecorder {
    start: Instant,
    records: Mutex<VecDeque<OpRecord>>,
}

impl FlightRecorder {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, records: Mutex::new(VecDeque::with_capacity(FLIGHT_RECORDS)) }
    }

    pub(crate) fn begin(&self, name: OpName, fingerprint: u64, bytes: u64) {
        let mut records = self.lock();
        if records.len() == FLIGHT_RECORDS {
            records.pop_front();
        }
        records.push_back(OpRecord { name, fingerprint, bytes, begin_us: self.now_us(), end_us: None });
    }

    pub(crate) fn end(&self) {
        let now = self.now_us();
        if let Some(last) = self.lock().back_mut() {
            last.end_us = Some(now);
        }
    }

    /// Where this rank stands.
    pub(crate) fn standing(&self) -> Standing {
        let records = self.lock();
        let Some(last) = records.back() else { return Standing::default() };
        let since_ms = self.now_us().saturating_sub(last.begin_us) / 1000;
        let now = last.end_us.is_none().then(|| (last.name.clone(), last.fingerprint, since_ms));
        Standing { now, last_seq: last.name.seq }
    }

    /// The operation of that number, if it is remembered.
    pub(crate) fn find(&self, seq: u64) -> Option<OpRecord> {
        self.lock().iter().rev().find(|record| record.name.seq == seq).cloned()
    }

    /// All that is remembered, oldest first.
    pub(crate) fn records(&self) -> Vec<OpRecord> {
        self.lock().iter().cloned().collect()
    }

    /// Writes all of it to `folder/flight-RANK.json`.
    pub(crate) fn write(&self, folder: &Path, rank: u32, fault: Option<&Fault>) -> io::Result<()> {
        let record = FlightRecord { rank, fault: fault.cloned(), operations: self.records() };
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("flight-{rank}.json"));
        let beside = folder.join(format!(".flight-{rank}.json"));
        fs::write(&beside, serde_json::to_vec_pretty(&record)?)?;
        fs::rename(&beside, &path)
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<OpRecord>> {
        // A panic elsewhere leaves records that are still true.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
