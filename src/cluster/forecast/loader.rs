//! When batches are ready: a rank's workers in simulated time, on their share of the machine's cores and disks.
//!
//! Work is measured in seconds of a core. More workers than cores go slower together. Ranks of a machine are alike, so
//! one rank with its share stands for all.

use std::collections::VecDeque;

use super::{Kind, Unit};

/// A pass over a rank's pictures, in simulated seconds since some start.
#[derive(Debug)]
pub(super) struct Loader {
    /// Images of every batch, the last one perhaps fewer.
    batches: Batches,
    /// Core seconds of an image.
    image_s: f64,
    /// Seconds in which the disks give an image to this rank.
    read_s: f64,
    /// Cores at most for all workers, and for one of them.
    cores: f64,
    worker_cores: f64,
    /// Of each worker the batch it is at, and the core seconds that are left of it.
    workers: Vec<(u64, f64)>,
    /// Batches begun beyond those consumed.
    ahead: u64,
    consumed: u64,
    now_s: f64,
    /// When the disks are through with what was asked of them, and with each batch that is begun and not consumed.
    read_until_s: f64,
    read: VecDeque<f64>,
}

/// An epoch's images cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batches {
    pub(super) count: u64,
    pub(super) batch_size: u64,
    /// Images of the last one.
    pub(super) last: u64,
}

impl Batches {
    /// A rank's share of `images`, with a shorter last batch or without it.
    pub(super) fn new(images: u64, world_size: u64, batch_size: u64, short_tail: bool) -> Self {
        if !short_tail {
            return Self { count: images / (world_size * batch_size), batch_size, last: batch_size };
        }
        let mine = images.div_ceil(world_size);
        let count = mine.div_ceil(batch_size);
        Self { count, batch_size, last: mine - count.saturating_sub(1) * batch_size }
    }

    pub(super) fn images(&self, batch: u64) -> u64 {
        if batch + 1 == self.count { self.last } else { self.batch_size }
    }
}

impl Loader {
    /// Begins a pass at `start_s` over pictures of which one takes `image_s` of a core and has `kb`.
    pub(super) fn new(kind: &Kind, batches: Batches, image_s: f64, kb: f64, start_s: f64) -> Self {
        let ranks = f64::from(kind.machine.ranks);
        let (cores, workers) = (f64::from(kind.machine.cores) / ranks, kind.input.workers);
        let (num_workers, worker_cores) = match kind.input.unit {
            Unit::Batch => (u64::from(workers), 1.0),
            Unit::Picture => (1, f64::from(workers)),
        };
        let mut loader = Self {
            batches,
            image_s,
            read_s: kind.machine.disk_mb_per_s.map_or(0.0, |rate| kb / 1e3 / (rate / ranks)),
            cores,
            worker_cores,
            workers: (0..num_workers).map(|batch| (batch, 0.0)).collect(),
            ahead: kind.input.batches_ahead.into(),
            consumed: 0,
            now_s: start_s,
            read_until_s: start_s,
            read: VecDeque::new(),
        };
        for worker in &mut loader.workers {
            worker.1 = batches.images(worker.0) as f64 * image_s;
        }
        for batch in 0..loader.ahead.min(batches.count) {
            loader.begin_reading(batch, start_s);
        }
        loader
    }

    /// When the next batch is ready for whom asks at `at_s`, which is then consumed.
    pub(super) fn next(&mut self, at_s: f64) -> f64 {
        let batch = self.consumed;
        self.advance(at_s, None);
        self.advance(f64::INFINITY, Some(batch));
        let read = self.read.pop_front().unwrap_or(at_s);
        let ready = at_s.max(self.now_s).max(read);
        self.consumed += 1;
        let begun = batch + self.ahead;
        if begun < self.batches.count {
            self.begin_reading(begun, ready);
        }
        ready
    }

    fn begin_reading(&mut self, batch: u64, at_s: f64) {
        let images = self.batches.images(batch) as f64;
        self.read_until_s = self.read_until_s.max(at_s) + images * self.read_s;
        self.read.push_back(self.read_until_s);
    }

    /// Lets the workers go on until a time, or until a batch is made.
    fn advance(&mut self, until_s: f64, batch: Option<u64>) {
        let count = self.workers.len() as u64;
        loop {
            if batch.is_some_and(|batch| self.workers[(batch % count) as usize].0 > batch) {
                return;
            }
            let may = (self.consumed + self.ahead).min(self.batches.count);
            let at_work = || self.workers.iter().filter(|worker| worker.0 < may);
            let num = at_work().count();
            if num == 0 || self.now_s >= until_s {
                self.now_s = if until_s.is_finite() { self.now_s.max(until_s) } else { self.now_s };
                return;
            }
            let rate = self.worker_cores.min(self.cores / num as f64);
            let least = at_work().map(|worker| worker.1).fold(f64::INFINITY, f64::min);
            let needed_s = least / rate;
            let lasts_s = needed_s.min(until_s - self.now_s);
            self.now_s += lasts_s;
            for worker in self.workers.iter_mut().filter(|worker| worker.0 < may) {
                // Who was nearest to the end of a batch is there, whatever was rounded.
                if lasts_s == needed_s && worker.1 <= least * (1.0 + 1e-12) {
                    worker.0 += count;
                    worker.1 = self.batches.images(worker.0) as f64 * self.image_s;
                } else {
                    worker.1 -= lasts_s * rate;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One rank of a machine with `cores`, whose workers take `unit`.
    fn kind(cores: u32, workers: u32, unit: Unit, batches_ahead: u32) -> Kind {
        let mut kind = Kind::find("h100-400g").unwrap();
        (kind.machine.ranks, kind.machine.cores) = (1, cores);
        (kind.input.workers, kind.input.unit, kind.input.batches_ahead) = (workers, unit, batches_ahead);
        kind
    }

    /// When batches are ready for somebody who keeps each for `step_s`; 10 images a batch, 0.1 s of a core each.
    fn ready(kind: &Kind, images: u64, step_s: f64) -> Vec<f64> {
        ready_at(kind, images, |_| step_s)
    }

    fn ready_at(kind: &Kind, images: u64, step_s: impl Fn(u64) -> f64) -> Vec<f64> {
        let batches = Batches::new(images, 1, 10, true);
        let mut loader = Loader::new(kind, batches, 0.1, 100.0, 5.0);
        let mut now = 5.0;
        (0..batches.count)
            .map(|batch| {
                let ready = loader.next(now);
                now = ready + step_s(batch);
                // To what a test can write down.
                (ready * 1e6).round() / 1e6
            })
            .collect()
    }

    #[test]
    fn an_epoch_is_cut_as_the_loader_cuts_it() {
        // imagenet18's: 157 steps of 64 on 128 ranks, the last one of 26.
        let batches = Batches::new(1_281_167, 128, 64, true);
        assert_eq!((batches.count, batches.last), (157, 26));
        assert_eq!((batches.images(155), batches.images(156)), (64, 26));
        let batches = Batches::new(1_281_167, 128, 64, false);
        assert_eq!((batches.count, batches.last), (156, 64));
    }

    #[test]
    fn a_worker_makes_one_batch_after_the_other() {
        assert_eq!(ready(&kind(4, 1, Unit::Batch, 2), 25, 0.0), [6.0, 7.0, 7.5]);
    }

    #[test]
    fn workers_share_cores() {
        // Three on three cores are through together; on one core as well, but three times as late.
        assert_eq!(ready(&kind(3, 3, Unit::Batch, 3), 30, 0.0), [6.0, 6.0, 6.0]);
        assert_eq!(ready(&kind(1, 3, Unit::Batch, 3), 30, 0.0), [8.0, 8.0, 8.0]);
        // Once the short one is made, the others go on faster.
        assert_eq!(ready(&kind(1, 2, Unit::Batch, 2), 15, 0.0), [6.5, 6.5]);
    }

    #[test]
    fn by_pictures_the_first_batch_is_everybodys() {
        assert_eq!(ready(&kind(4, 4, Unit::Picture, 2), 30, 0.0), [5.25, 5.5, 5.75]);
        // More workers than cores help nobody.
        assert_eq!(ready(&kind(4, 9, Unit::Picture, 2), 30, 0.0), [5.25, 5.5, 5.75]);
    }

    #[test]
    fn a_slow_consumer_finds_batches_made_but_no_more_than_were_begun() {
        // Two are made while the first is used for long; the one after them was not begun.
        let long_then_short = |batch| if batch == 0 { 10.0 } else { 0.0 };
        assert_eq!(ready_at(&kind(1, 1, Unit::Batch, 2), 50, long_then_short), [6.0, 16.0, 16.0, 17.0, 18.0]);
        assert_eq!(ready(&kind(1, 1, Unit::Batch, 2), 40, 3.0), [6.0, 9.0, 12.0, 15.0]);
        // Nothing is begun before the last one was taken: then each comes a batch later.
        assert_eq!(ready(&kind(1, 1, Unit::Batch, 1), 30, 3.0), [6.0, 9.0, 12.0]);
        assert_eq!(ready(&kind(1, 1, Unit::Batch, 1), 30, 0.25), [6.0, 7.0, 8.0]);
    }

    #[test]
    fn disks_hold_up_whom_they_feed() {
        let mut slow = kind(9, 9, Unit::Batch, 3);
        // 10 images of 100 KB at half a megabyte a second.
        slow.machine.disk_mb_per_s = Some(0.5);
        assert_eq!(ready(&slow, 30, 0.0), [7.0, 9.0, 11.0]);
    }
}
