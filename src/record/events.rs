//! TensorBoard's event files as a format: records with masked CRC-32C around hand-written protobuf. Scalars only; what is
//! written into them is `tensorboard`'s business. Source: `tensorflow/core/util/event.proto` and
//! `lib/io/record_writer.cc`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::RecordError;

/// Far above any record of scalars; a longer one is damage, and is refused before it fills the memory.
const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// An event; kinds that are not scalars, the version or a restart are read as [`Content::Other`].
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// The x axis: training images.
    pub step: i64,
    /// What the event says.
    pub content: Content,
}

/// What an [`Event`] says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// First in a file: the format's version.
    FileVersion(String),
    /// Values of tags.
    Scalars(Vec<(String, f32)>),
    /// The run goes on from here: readers drop what earlier files say of this step and later.
    SessionStart,
    /// Anything else.
    Other,
}

impl Event {
    /// The bytes of its record in a file.
    pub(super) fn to_record(&self) -> Vec<u8> {
        frame(&self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_fixed64(&mut out, 1, self.wall_time);
        put_varint(&mut out, 2, self.step as u64);
        match &self.content {
            Content::FileVersion(version) => put_bytes(&mut out, 3, version.as_bytes()),
            Content::Scalars(scalars) => {
                let mut summary = Vec::new();
                for (tag, value) in scalars {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, tag.as_bytes());
                    put_fixed32(&mut entry, 2, *value);
                    put_bytes(&mut summary, 1, &entry);
                }
                put_bytes(&mut out, 5, &summary);
            }
            Content::SessionStart => {
                let mut session = Vec::new();
                put_varint(&mut session, 1, 1);
                put_bytes(&mut out, 7, &session);
            }
            Content::Other => {}
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut event = Self { wall_time: 0.0, step: 0, content: Content::Other };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Fixed64(bits)) => event.wall_time = f64::from_bits(bits),
                (2, Value::Varint(step)) => event.step = step as i64,
                (3, Value::Bytes(text)) => {
                    event.content = Content::FileVersion(String::from_utf8_lossy(text).into_owned());
                }
                (5, Value::Bytes(summary)) => event.content = Content::Scalars(decode_summary(summary)?),
                (7, Value::Bytes([0x08, 0x01, ..])) => {
                    event.content = Content::SessionStart;
                }
                _ => {}
            }
        }
        Ok(event)
    }
}

fn decode_summary(bytes: &[u8]) -> Result<Vec<(String, f32)>, &'static str> {
    let (mut scalars, mut fields) = (Vec::new(), Fields(bytes));
    while let Some((number, value)) = fields.next()? {
        let (1, Value::Bytes(entry)) = (number, value) else { continue };
        let (mut tag, mut scalar, mut entry) = (None, None, Fields(entry));
        while let Some((number, value)) = entry.next()? {
            match (number, value) {
                (1, Value::Bytes(text)) => tag = Some(String::from_utf8_lossy(text).into_owned()),
                (2, Value::Fixed32(bits)) => scalar = Some(f32::from_bits(bits)),
                _ => {}
            }
        }
        scalars.extend(tag.zip(scalar));
    }
    Ok(scalars)
}

/// Reads an event file; a record that a kill cut short at its end is passed over.
///
/// # Errors
/// [`RecordError::Missing`], [`RecordError::Io`]; [`RecordError::BadEvents`] for a wrong checksum or damaged content.
pub fn read_events(path: &Path) -> Result<Vec<Event>, RecordError> {
    let fail = |source| RecordError::io("read", path, source);
    let file = File::open(path).map_err(fail)?;
    let mut left = file.metadata().map_err(fail)?.len();
    let (total, mut reader) = (left, BufReader::new(file));
    let mut events = Vec::new();
    while left >= 16 {
        let offset = total - left;
        let bad =
            |reason: &str| RecordError::BadEvents { path: path.to_path_buf(), offset, reason: reason.into() };
        let mut header = [0; 12];
        reader.read_exact(&mut header).map_err(fail)?;
        let [a, b, c, d, e, f, g, h, crc @ ..] = header;
        let length = [a, b, c, d, e, f, g, h];
        if masked_crc(&length) != u32::from_le_bytes(crc) {
            return Err(bad("the checksum of a record's length is wrong"));
        }
        let length = u64::from_le_bytes(length);
        if length > RECORD_BYTES_MAX {
            return Err(bad(&format!("a record of {length} bytes; at most {RECORD_BYTES_MAX} are read")));
        }
        if length + 16 > left {
            break;
        }
        let mut record = vec![0; length as usize];
        let mut crc = [0; 4];
        reader.read_exact(&mut record).and_then(|()| reader.read_exact(&mut crc)).map_err(fail)?;
        if masked_crc(&record) != u32::from_le_bytes(crc) {
            return Err(bad("a record's checksum is wrong"));
        }
        events.push(Event::decode(&record).map_err(bad)?);
        left -= length + 16;
    }
    Ok(events)
}

/// Length, its checksum, the record, its checksum: `record_writer.cc`.
fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(record.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(record);
    out.extend_from_slice(&masked_crc(record).to_le_bytes());
    out
}

/// The mask keeps the checksum of data that holds checksums from being weak (`crc32c.h`).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn put_raw_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint(out: &mut Vec<u8>, field: u64, value: u64) {
    put_raw_varint(out, field << 3);
    put_raw_varint(out, value);
}

fn put_fixed64(out: &mut Vec<u8>, field: u64, value: f64) {
    put_raw_varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_raw_varint(out, field << 3 | 2);
    put_raw_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_fixed32(out: &mut Vec<u8>, field: u64, value: f32) {
    put_raw_varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a protobuf message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = self.varint()?;
                let (bytes, rest) = usize::try_from(length)
                    .ok()
                    .and_then(|length| self.0.split_at_checked(length))
                    .ok_or("a field is longer than its record")?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err("a field has a type that protobuf does not know"),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("a record ends inside a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number has more than ten bytes")
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or("a record ends inside a number")?;
        self.0 = rest;
        Ok(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_castagnoli_s_and_masked_as_tensorflow_does() {
        // RFC 3720 B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn events_come_back_as_written() {
        let scalars = vec![("losses/xent".to_string(), 6.9), ("sizes/lr".to_string(), f32::INFINITY)];
        let contents = [
            Content::FileVersion("brain.Event:2".into()),
            Content::Scalars(scalars),
            Content::Scalars(vec![]),
            Content::SessionStart,
        ];
        for content in contents {
            let event = Event { wall_time: 1.5e9 + 0.25, step: 1_281_167, content };
            assert_eq!(Event::decode(&event.encode()), Ok(event));
        }
    }

    #[test]
    fn damaged_messages_are_errors() {
        let whole = Event { wall_time: 1.0, step: 3, content: Content::FileVersion("v".into()) }.encode();
        for length in [1, 5, 10, whole.len() - 1] {
            assert!(Event::decode(&whole[..length]).is_err(), "{length} bytes");
        }
        assert!(Event::decode(&[0x10; 11]).is_err(), "field 2 cut after many numbers");
        assert!(
            Event::decode(&[0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]).is_err()
        );
        assert!(Event::decode(&[0x0b]).is_err(), "a group, which protobuf 3 dropped");
    }
}
