//! What is said on a control connection: JSON, in an [`envelope`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Farewell, Stall, Suspicion};
use crate::{
    error::Fault,
    flight::{OpRecord, Standing},
    limits::MAX_CONTROL_BYTES,
    wire::envelope,
};

/// The longest message that rank 0 takes from another: a deadline that waits for 1,023 others fits.
pub(super) const MAX_REPORT_BYTES: usize = 64 << 10;

/// A message between rank 0 and another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Both ways: the sender lives, and stands there.
    Heartbeat(Standing),
    /// To rank 0: the sender noticed that, and waits for a verdict.
    Suspect(Suspicion),
    /// From rank 0: did you call this operation, and where do you stand?
    Query { seq: u64 },
    /// The answer.
    Answer { seq: u64, record: Option<OpRecord>, standing: Standing },
    /// To rank 0: the sender goes. Nothing follows.
    Farewell { farewell: Farewell, last_seq: u64 },
    /// From rank 0: its own work is done; that its connection ends soon is no fault.
    Left { last_seq: u64 },
    /// The last farewell or verdict was read.
    Heard,
    /// From rank 0: an operation waits long.
    Stall(Stall),
    /// What ended the job. To rank 0 only if it is itself the culprit, for when it wakes.
    Verdict(Fault),
}

impl Message {
    /// The message as it travels.
    pub(super) fn frame(&self) -> Arc<[u8]> {
        let json = serde_json::to_vec(self).expect("numbers, texts and lists of them always become JSON");
        envelope::enclose(&json, MAX_CONTROL_BYTES).expect("every text and list in it has a bound").into()
    }
}

/// Bytes that came, until they are messages.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// How many of them were taken.
    taken: usize,
    max_bytes: usize,
}

impl Inbox {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { bytes: Vec::new(), taken: 0, max_bytes }
    }

    /// Adds what came. Call [`next`](Self::next) until it has no more before the next time: then this never holds
    /// more than one message and what was read at a time.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The next whole message, or what is wrong with it.
    pub(super) fn next(&mut self) -> Result<Option<Message>, String> {
        let left = &self.bytes[self.taken..];
        let Some((prefix, rest)) = left.split_first_chunk::<4>() else { return Ok(None) };
        let Some(length) = envelope::body_length(*prefix, self.max_bytes) else {
            let length = u32::from_le_bytes(*prefix);
            return Err(format!("a control message of {length} bytes, at most {} are taken", self.max_bytes));
        };
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let json = envelope::open(body).map_err(|why| format!("on its control connection, {why}"))?;
        let message = serde_json::from_slice(json)
            .map_err(|error| format!("a control message of {length} bytes is none: {error}"))?;
        self.taken += 4 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::OpName;

    fn samples() -> Vec<Message> {
        let name = OpName { seq: u64::MAX, what: "all-reduce (mean) of 6400000 f32, bucket 3".into() };
        let standing = Standing { now: Some((name.clone(), u64::MAX - 1, 5)), last_seq: u64::MAX };
        let record = OpRecord { name, fingerprint: u64::MAX, bytes: 7, begin_us: 1, end_us: Some(2) };
        vec![
            Message::Heartbeat(standing.clone()),
            Message::Answer { seq: 9, record: Some(record), standing },
            Message::Suspect(Suspicion::Deadline {
                seq: 3,
                waiting_for: (0..1023).collect(),
                received: u64::MAX,
            }),
            Message::Farewell { farewell: Farewell::Panicked("at \"x\"\u{1F980}".into()), last_seq: 4 },
            Message::Heard,
        ]
    }

    #[test]
    fn messages_come_back_however_they_are_cut() {
        let stream: Vec<u8> = samples().iter().flat_map(|m| m.frame().to_vec()).collect();
        for piece in [1, 3, 4, 5, 64, stream.len()] {
            let (mut inbox, mut got) = (Inbox::new(MAX_REPORT_BYTES), Vec::new());
            for bytes in stream.chunks(piece) {
                inbox.put(bytes);
                while let Some(message) = inbox.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, samples(), "pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_bytes_come() {
        let mut inbox = Inbox::new(100);
        inbox.put(&101u32.to_le_bytes());
        assert!(inbox.next().unwrap_err().contains("101 bytes, at most 100"));
        let mut inbox = Inbox::new(100);
        inbox.put(&u32::MAX.to_le_bytes());
        assert!(inbox.next().is_err());
        assert!(inbox.bytes.capacity() < 100);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for json in ["", "{", "null", "{\"Heartbeat\":3}", "\"Nobody\"", "[[[[[[[["] {
            let mut inbox = Inbox::new(100);
            inbox.put(&envelope::enclose(json.as_bytes(), 100).unwrap());
            assert!(inbox.next().unwrap_err().contains("is none"), "{json}");
        }
    }

    #[test]
    fn a_message_that_was_changed_is_none() {
        // Still JSON, and still a message.
        let frame = Message::Left { last_seq: 3 }.frame();
        let mut changed = frame.to_vec();
        *changed.iter_mut().find(|byte| **byte == b'3').unwrap() = b'4';
        let mut inbox = Inbox::new(100);
        inbox.put(&changed);
        assert!(inbox.next().unwrap_err().contains("its sender computed"));
    }
}
