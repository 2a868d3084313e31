//! Where an operation's time went, for those who ask: spans in Chrome's trace event format, which `chrome://tracing` and
//! Perfetto open. Off unless started; then it costs a lock and a few dozen bytes an operation and lane.
//!
//! Format: "Trace Event Format", Google, 2016: complete events (`"ph": "X"`), times in microseconds.

use std::{
    fs, io,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde::Serialize;

use crate::error::OpName;

/// Spans that a trace holds at most; later ones are counted only.
const MAX_SPANS: usize = 200_000;

/// One operation on one lane.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    name: String,
    seq: u64,
    lane: usize,
    bytes: usize,
    started: Instant,
    seconds: f64,
    wait_s: f64,
}

impl Span {
    pub(crate) fn of(
        name: &OpName,
        lane: usize,
        bytes: usize,
        started: Instant,
        seconds: f64,
        wait_s: f64,
    ) -> Self {
        Self { name: name.what.clone(), seq: name.seq, lane, bytes, started, seconds, wait_s }
    }
}

/// The spans of one rank.
#[derive(Debug)]
pub(crate) struct Trace {
    rank: u32,
    start: Instant,
    on: AtomicBool,
    spans: Mutex<(Vec<Span>, usize)>,
}

#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    ph: &'a str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: usize,
    args: Args,
}

#[derive(Serialize)]
struct Args {
    seq: u64,
    bytes: usize,
    wait_us: f64,
}

impl Trace {
    pub(crate) fn new(rank: u32, start: Instant) -> Self {
        Self { rank, start, on: AtomicBool::new(false), spans: Mutex::default() }
    }

    pub(crate) fn start(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, span: Span) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.0.len() < MAX_SPANS {
            spans.0.push(span);
        } else {
            spans.1 += 1;
        }
    }

    /// Writes the spans to `folder/trace-RANK.json`.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("trace-{}.json", self.rank)), self.to_json())
    }

    /// The spans so far, as JSON; one process a rank, one thread a lane.
    fn to_json(&self) -> String {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let us = |seconds: f64| seconds * 1e6;
        let event = |span: &Span| {
            let args = Args { seq: span.seq, bytes: span.bytes, wait_us: us(span.wait_s) };
            let ts = us(span.started.saturating_duration_since(self.start).as_secs_f64());
            serde_json::to_value(Event {
                name: &span.name,
                ph: "X",
                ts,
                dur: us(span.seconds),
                pid: self.rank,
                tid: span.lane,
                args,
            })
        };
        let events: Vec<_> = spans.0.iter().filter_map(|span| event(span).ok()).collect();
        let other = serde_json::json!({ "rank": self.rank, "spans_left_out": spans.1 });
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms", "otherData": other }).to_string()
    }
}
