//! The flight recorder: the last operations of this rank, and where the present one stands. Others ask it what this
//! rank was doing; it is written to a file when the job ends by a fault. Not a trace, which has times but no memory of faults.

use std::{
    collections::VecDeque,
    fmt, fs, io,
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

    /// Writes all of it to `folder/flight-RANK.json`, whole or not at all.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, folder: &Path, rank: u32, fault: Option<&Fault>) -> io::Result<()> {
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

/// The first operation that ranks did not call alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parting {
    /// Its number.
    pub seq: u64,
    /// What was called, and by which ranks; `None`: by those who had called nothing more.
    pub sides: Vec<(Option<String>, Vec<u32>)>,
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}:", self.seq)?;
        for (at, (what, ranks)) in self.sides.iter().enumerate() {
            let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
            let what = what.as_deref().unwrap_or("not called");
            write!(f, "{} {what} by {}", if at == 0 { "" } else { ";" }, ranks.join(", "))?;
        }
        Ok(())
    }
}

/// Where the ranks of a job parted, by their flight records: the first operation that all of them could remember and
/// that they did not call alike. `None` if there is none.
pub fn parting(records: &[FlightRecord]) -> Option<Parting> {
    let first = records.iter().map(|record| record.operations.first().map_or(1, |op| op.name.seq)).max()?;
    let last = records.iter().filter_map(|record| record.operations.last().map(|op| op.name.seq)).max()?;
    (first..=last).find_map(|seq| {
        // By fingerprint, which tells apart what reads alike.
        let mut sides = Vec::<(Option<&OpRecord>, Vec<u32>)>::new();
        for record in records {
            let op = record.operations.binary_search_by_key(&seq, |op| op.name.seq).ok();
            let called = op.map(|at| &record.operations[at]);
            let fingerprint = |op: Option<&OpRecord>| op.map(|op| op.fingerprint);
            match sides.iter_mut().find(|(side, _)| fingerprint(*side) == fingerprint(called)) {
                Some((_, ranks)) => ranks.push(record.rank),
                None => sides.push((called, vec![record.rank])),
            }
        }
        let sides = sides.into_iter().map(|(side, ranks)| (side.map(|op| op.name.what.clone()), ranks));
        Some(Parting { seq, sides: sides.collect() }).filter(|parting| parting.sides.len() > 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: u32, operations: &[(u64, u64)]) -> FlightRecord {
        let op = |&(seq, fingerprint): &(u64, u64)| OpRecord {
            name: OpName { seq, what: format!("what {fingerprint}") },
            fingerprint,
            bytes: 4,
            begin_us: seq,
            end_us: Some(seq + 1),
        };
        FlightRecord { rank, fault: None, operations: operations.iter().map(op).collect() }
    }

    #[test]
    fn the_first_difference_is_found() {
        let records = [
            // The ring of the first has already lost the beginning.
            record(0, &[(2, 20), (3, 30), (4, 40)]),
            record(1, &[(1, 99), (2, 20), (3, 31), (4, 41)]),
            record(2, &[(1, 10), (2, 20), (3, 30)]),
        ];
        let parting = parting(&records).unwrap();
        assert_eq!(parting.to_string(), "operation 3: what 30 by 0, 2; what 31 by 1");
    }

    #[test]
    fn who_stopped_calling_is_told() {
        let parting = parting(&[record(0, &[(1, 10), (2, 20)]), record(1, &[(1, 10)])]).unwrap();
        assert_eq!(parting.to_string(), "operation 2: what 20 by 0; not called by 1");
    }

    #[test]
    fn ranks_that_agree_have_not_parted() {
        assert_eq!(parting(&[record(0, &[(1, 10)]), record(1, &[(1, 10)])]), None);
        assert_eq!(parting(&[record(0, &[]), record(1, &[])]), None);
        assert_eq!(parting(&[]), None);
    }
}
