//! Memory of large results, kept when a result is dropped and used again for the next of its size. A training step asks
//! for the same sizes as the one before; from the system each page would come anew, cleared by the kernel: a fifth of
//! a step of ResNet-50.
//!
//! Bounded by what was in use at once: a size that is not there is then paid for with memory kept for others, the longest
//! kept first.

use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};
use rayon::prelude::*;

/// Values of a line of the cache, at the beginning of one of which every buffer begins: a vector that lies across two costs
/// twice.
const LINE: usize = 16;
/// Values from which memory is worth keeping: below, an allocator does that itself.
const LARGE: usize = 1 << 14;

/// How much more than was in use at once may be held: sizes are not in use all at the same time.
const SLACK: f64 = 1.5;

/// What is held, in values.
struct Pool {
    /// What nobody uses, in the order in which it came back.
    idle: Vec<Vec<f32>>,
    num_idle: usize,
    num_used: usize,
    most_used: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), num_idle: 0, num_used: 0, most_used: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing in here panics half-way.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A vector of this length, if there is one, and what has to go for its sake if not.
    fn take(&mut self, len: usize) -> (Option<Vec<f32>>, Vec<Vec<f32>>) {
        self.num_used += len;
        self.most_used = self.most_used.max(self.num_used);
        if let Some(place) = self.idle.iter().rposition(|kept| kept.len() == len) {
            self.num_idle -= len;
            return (Some(self.idle.remove(place)), Vec::new());
        }
        let limit = (self.most_used as f64 * SLACK) as usize;
        let mut num_freed = 0;
        while self.num_used + self.num_idle > limit && num_freed < self.idle.len() {
            self.num_idle -= self.idle[num_freed].len();
            num_freed += 1;
        }
        (None, self.idle.drain(..num_freed).collect())
    }

    fn put(&mut self, vector: Vec<f32>) {
        self.num_used -= vector.len();
        self.num_idle += vector.len();
        self.idle.push(vector);
    }
}

/// Gives back to the system what the operations of this crate keep for their next results: between one network, or one
/// size of images, and the next.
pub fn free_memory() {
    let mut pool = pool();
    (pool.num_idle, pool.most_used) = (0, pool.num_used);
    pool.idle.clear();
}

/// Floats on loan.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    first: usize,
}

impl Buffer {
    /// Of any values: those of a former result, or zeros.
    pub(crate) fn of_any(len: usize) -> Self {
        let len = len + LINE - 1;
        // What has to go is freed without the lock.
        let (kept, _freed) = if len < LARGE { Default::default() } else { pool().take(len) };
        let memory: Vec<f32> = kept.unwrap_or_else(|| vec![0.0; len]);
        let first = memory.as_ptr().align_offset(size_of::<[f32; LINE]>()).min(LINE - 1);
        Self { memory, first }
    }

    fn values(&self) -> core::ops::Range<usize> {
        self.first..(self.first + self.memory.len() + 1).saturating_sub(LINE)
    }

    /// The first `len` bytes as the memory of a tensor; comes back when that is dropped.
    #[expect(unsafe_code, reason = "the only way to memory of one's own")]
    pub(crate) fn into_bytes(self, len: usize) -> Bytes {
        assert!(len <= size_of_val::<[f32]>(&self), "a buffer has fewer bytes");
        // SAFETY: a vector's values are initialized, all of them, and by the assertion there are so many.
        unsafe { Bytes::from_controller(Box::new(self), len) }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.values()]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let values = self.values();
        &mut self.memory[values]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() >= LARGE {
            pool().put(core::mem::take(&mut self.memory));
        }
    }
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        size_of::<[f32; LINE]>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    #[expect(unsafe_code, reason = "a view of fewer promises")]
    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(self);
        // SAFETY: the same bytes, borrowed alike.
        Ok(unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }

    #[expect(unsafe_code, reason = "as declared")]
    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self);
        // SAFETY: the same bytes, borrowed as exclusively; that nothing uninitialized is written, the caller promises.
        Ok(unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) })
    }
}

/// Buffers of `len` floats whose pieces of `piece` floats `fill` overwrites, in parallel; it gets their index.
pub(crate) fn filled<const N: usize>(
    len: usize,
    piece: usize,
    fill: impl Fn(usize, [&mut [f32]; N]) + Sync,
) -> [Buffer; N] {
    let mut buffers = [(); N].map(|()| Buffer::of_any(len));
    let mut pieces = buffers.each_mut().map(|buffer| buffer.chunks_mut(piece));
    let pieces: Vec<[&mut [f32]; N]> = (0..len.div_ceil(piece))
        .map(|_| pieces.each_mut().map(|each| each.next().expect("as many")))
        .collect();
    pieces.into_par_iter().enumerate().for_each(|(index, pieces)| fill(index, pieces));
    buffers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(pool: &Pool) -> Vec<usize> {
        pool.idle.iter().map(Vec::len).collect()
    }

    #[test]
    fn what_came_back_is_used_again_and_gives_way_to_what_is_needed() {
        let mut pool = Pool { idle: vec![], num_idle: 0, num_used: 0, most_used: 0 };
        let new = |pool: &mut Pool, len: usize| {
            let (kept, freed) = pool.take(len);
            assert!(kept.is_none());
            (vec![0.0; len], freed.iter().map(Vec::len).collect::<Vec<_>>())
        };
        let (a, _) = new(&mut pool, 40);
        let (b, _) = new(&mut pool, 60);
        pool.put(b);
        pool.put(a);
        assert_eq!((lengths(&pool), pool.num_used, pool.num_idle), (vec![60, 40], 0, 100));
        let (kept, freed) = pool.take(60);
        assert!(kept.is_some_and(|kept| kept.len() == 60) && freed.is_empty());
        pool.put(vec![0.0; 60]);
        // 100 were in use at once, so 150 may be held.
        let (c, freed) = new(&mut pool, 50);
        assert!(freed.is_empty());
        let (_, freed) = new(&mut pool, 20);
        assert_eq!(freed, [40], "the one that came back first");
        pool.put(c);
        assert_eq!((lengths(&pool), pool.num_used, pool.num_idle), (vec![60, 50], 20, 110));
    }

    #[test]
    fn a_tensor_has_the_memory_of_a_buffer() {
        let mut buffer = Buffer::of_any(LARGE);
        (buffer[0], buffer[LARGE - 1]) = (0.0, 1.0);
        let mut bytes = buffer.into_bytes(4 * LARGE);
        assert_eq!((bytes.len(), &bytes[4 * LARGE - 4..]), (4 * LARGE, &1f32.to_le_bytes()[..]));
        let copy = bytes.clone();
        bytes[0] = 1;
        assert_eq!((bytes[0], copy[0]), (1, 0));
    }
}
