//! Who makes what, and when: what a loader's threads and its consumer share.
//!
//! The threads take tickets for small runs of samples, in the order in which they will be consumed, through one pass
//! after the other. A batch is begun only while fewer than `batches_ahead` wait to be consumed, so memory is bounded.
//!
//! Not here: which sample is where (`leg`), and what becomes of one (`worker`).

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;

use super::{
    batch::Recycled,
    leg::Leg,
    slot::{Slot, lock, splittable},
    worker::Scratch,
};

/// How many bytes of samples a ticket is for: enough that taking it costs nothing beside the work.
const TICKET_BYTES: usize = 64 << 10;

/// What a loader's threads and its consumer share.
#[derive(Debug)]
pub(super) struct Shared {
    batches_ahead: usize,
    queue: Mutex<Queue>,
    /// The threads wait here for tickets.
    tickets: Condvar,
    /// The consumer waits here for its batch.
    ready: Condvar,
    /// Beside the lock, so that a thread can look between two samples.
    stop: AtomicBool,
    pub(super) recycled: Arc<Recycled>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Passes with batches that were not begun.
    coming: VecDeque<Coming>,
    /// In the order of consumption.
    begun: VecDeque<Begun>,
}

/// A pass with batches that were not begun.
#[derive(Debug)]
struct Coming {
    leg: Arc<Leg>,
    /// The first of those batches.
    next: usize,
    /// The first window of its order that the source was not told of.
    untold: usize,
}

/// A batch that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) leg: Arc<Leg>,
    pub(super) number: usize,
    pub(super) slot: Arc<Slot>,
    /// Samples that there was a ticket for.
    handed_out: usize,
    /// The memory of the others.
    rest: BytesMut,
}

/// A run of places in a batch.
struct Ticket {
    leg: Arc<Leg>,
    slot: Arc<Slot>,
    places: Range<usize>,
    /// Theirs in the batch's memory.
    images: BytesMut,
}

impl Shared {
    pub(super) fn new(batches_ahead: usize) -> Self {
        Self {
            batches_ahead,
            queue: Mutex::default(),
            tickets: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
            recycled: Arc::default(),
        }
    }

    /// Adds a pass after those that are there.
    pub(super) fn add(&self, leg: Arc<Leg>) {
        if leg.start_batch < leg.num_batches {
            let (next, untold) = (leg.start_batch, leg.window_of(leg.start_batch));
            lock(&self.queue).coming.push_back(Coming { leg, next, untold });
            self.tickets.notify_all();
        }
    }

    /// Waits for the next batch to be whole and takes it out; `None` after the last one.
    pub(super) fn next(&self) -> Option<Begun> {
        let mut queue = lock(&self.queue);
        loop {
            let has_more = !queue.begun.is_empty() || !queue.coming.is_empty();
            if !has_more || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(begun) = queue.begun.pop_front_if(|begun| begun.slot.is_whole()) {
                self.tickets.notify_all();
                return Some(begun);
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the threads, each after the sample it is at.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _queue = lock(&self.queue);
        self.tickets.notify_all();
    }

    /// What a thread does until it is told to stop.
    pub(super) fn work(&self) {
        let mut scratch = Scratch::default();
        while let Some(Ticket { leg, slot, places, mut images }) = self.ticket() {
            let sample_bytes = leg.sample_bytes(&slot.transform);
            let mut results = Vec::with_capacity(places.len());
            for (place, out) in places.clone().zip(images.chunks_exact_mut(sample_bytes)) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let position = slot.positions.start + place;
                results.push(leg.job.produce(position, &slot.transform, &mut scratch, out));
            }
            if slot.fill(places, images, results) {
                // Under the lock, so that the consumer is either waiting or will see it.
                let _queue = lock(&self.queue);
                self.ready.notify_all();
            }
        }
    }

    /// The next run of places in a batch, as soon as that batch may be begun; `None` once the loader is stopped.
    fn ticket(&self) -> Option<Ticket> {
        let mut queue = lock(&self.queue);
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(ticket) = queue.begun.back_mut().and_then(Begun::ticket) {
                return Some(ticket);
            }
            if queue.begun.len() == self.batches_ahead || !self.begin(&mut queue) {
                queue = self.tickets.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
        None
    }

    /// Begins the next batch, if there is one.
    fn begin(&self, queue: &mut Queue) -> bool {
        let Some(coming) = queue.coming.front_mut() else { return false };
        let (leg, number) = (coming.leg.clone(), coming.next);
        let window = leg.window_of(number);
        coming.tell(window + 2);
        coming.next += 1;
        if leg.window_of(leg.num_batches - 1) == window
            && let Some(after) = queue.coming.get_mut(1)
        {
            after.tell(1);
        }
        if number + 1 == leg.num_batches {
            queue.coming.pop_front();
        }
        let (positions, transform) = leg.batches.get(number);
        let mut images = lock(&self.recycled).pop().unwrap_or_default();
        images.resize(positions.len() * leg.sample_bytes(&transform), 0);
        let slot = Arc::new(Slot::new(positions, transform));
        queue.begun.push_back(Begun { leg, number, slot, handed_out: 0, rest: splittable(images) });
        true
    }
}

impl Coming {
    /// Tells the source of the windows before `end`, each once.
    fn tell(&mut self, end: usize) {
        self.leg.read_ahead(self.untold..end);
        self.untold = self.untold.max(end);
    }
}

impl Begun {
    /// The next run of its places, until all are handed out.
    fn ticket(&mut self) -> Option<Ticket> {
        let (start, num_places) = (self.handed_out, self.slot.positions.len());
        if start == num_places {
            return None;
        }
        let sample_bytes = self.leg.sample_bytes(&self.slot.transform);
        let num_samples = (TICKET_BYTES / sample_bytes).clamp(1, 64);
        self.handed_out = (start + num_samples).min(num_places);
        let places = start..self.handed_out;
        let images = self.rest.split_to(places.len() * sample_bytes);
        if self.handed_out == num_places {
            // Or this empty end would count as an owner, and the memory not be one again.
            self.rest = BytesMut::new();
        }
        Some(Ticket { leg: self.leg.clone(), slot: self.slot.clone(), places, images })
    }
}
