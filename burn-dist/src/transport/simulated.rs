//! Connections inside one thread, for tests: bytes move in pieces whose lengths a seed decides, and a fault may strike
//! at a given byte. The same seed gives the same run, to the byte.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use super::{Pipe, Shutter};

#[path = "../../tests/common/dice.rs"]
mod dice;
pub(crate) use dice::Dice;

/// What happens to a direction when so many bytes have gone through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// A bit of the byte is flipped.
    Flip(u8),
    /// The byte comes twice.
    Duplicate,
    /// The byte is lost.
    Lose,
    /// The connection ends.
    Cut,
    /// Nothing comes any more, and nobody says so.
    Stall,
}

struct Direction {
    bytes: VecDeque<u8>,
    room: usize,
    written: usize,
    strike: Option<(usize, Strike)>,
    stalled: bool,
    closed: bool,
}

/// One end of a connection.
pub(crate) struct SimulatedPipe {
    out: Arc<Mutex<Direction>>,
    come: Arc<Mutex<Direction>>,
    dice: Dice,
}

/// Both ends of a connection with `room` bytes in flight each way; `strike` hits what the first end sends.
pub(crate) fn pair(
    seed: u64,
    room: usize,
    strike: Option<(usize, Strike)>,
) -> (SimulatedPipe, SimulatedPipe) {
    let direction = |strike| {
        Arc::new(Mutex::new(Direction {
            bytes: VecDeque::new(),
            room,
            written: 0,
            strike,
            stalled: false,
            closed: false,
        }))
    };
    let (there, back) = (direction(strike), direction(None));
    let end = |out: &Arc<_>, come: &Arc<_>, salt| SimulatedPipe {
        out: Arc::clone(out),
        come: Arc::clone(come),
        dice: Dice(seed.wrapping_mul(2).wrapping_add(salt)),
    };
    (end(&there, &back, 0), end(&back, &there, 1))
}

impl Direction {
    fn push(&mut self, byte: u8) {
        let strike = self.strike.filter(|(at, _)| *at == self.written).map(|(_, strike)| strike);
        self.written += 1;
        if self.stalled || self.closed {
            return;
        }
        match strike {
            None => self.bytes.push_back(byte),
            Some(Strike::Flip(bit)) => self.bytes.push_back(byte ^ (1 << bit)),
            Some(Strike::Duplicate) => self.bytes.extend([byte, byte]),
            Some(Strike::Lose) => {}
            Some(Strike::Cut) => self.closed = true,
            Some(Strike::Stall) => self.stalled = true,
        }
    }
}

impl Pipe for SimulatedPipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut come = self.come.lock().unwrap();
        if come.bytes.is_empty() {
            return if come.closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = (1 + self.dice.below(into.len().max(1))).min(come.bytes.len()).min(into.len());
        for (to, from) in into.iter_mut().zip(come.bytes.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut out = self.out.lock().unwrap();
        let room = out.room.saturating_sub(out.bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length: usize = from.iter().map(|slice| slice.len()).sum();
        let count = room.min(length).min(1 + self.dice.below(length.max(1)));
        from.iter().flat_map(|slice| slice.iter()).take(count).for_each(|&byte| out.push(byte));
        Ok(count)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn shutter(&self) -> Option<Shutter> {
        None
    }
}
