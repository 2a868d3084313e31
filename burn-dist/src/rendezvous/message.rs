//! What ranks say once they have proved themselves: JSON, in an [`envelope`](crate::wire::envelope). Pure: no socket.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Member, Roster};
use crate::{
    config::Agreed,
    error::{DistError, Result},
    wire::envelope::enclose,
};

/// Longest message of a rank that is not a member yet.
pub(super) const MAX_JOIN_BYTES: usize = 64 << 10;
/// Longest name of a machine.
const MAX_HOST_BYTES: usize = 255;

/// A rank's wish to be a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Join {
    /// Of burn-dist.
    pub(super) version: String,
    pub(super) world_size: u32,
    pub(super) generation: u32,
    pub(super) member: Member,
    /// [`Agreed`], field by field: another version's may have other fields, and is to be told so.
    pub(super) agreed: Map<String, Value>,
}

impl Join {
    pub(super) fn new(world_size: u32, generation: u32, member: Member, agreed: &Agreed) -> Self {
        let agreed = match serde_json::to_value(agreed) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), world_size, generation, member, agreed }
    }

    /// Reads a join message; what of it goes into messages and logs is harmless afterwards.
    pub(super) fn decode(json: &[u8]) -> Result<Self, String> {
        let mut join: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        join.member.host = printable(&join.member.host, MAX_HOST_BYTES);
        join.version = printable(&join.version, 32);
        Ok(join)
    }
}

/// Rank 0's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The job has formed.
    Formed(Roster),
    /// It has not, or this process is none of it.
    Refused {
        reason: String,
        /// Whether another try may succeed: an earlier start of the job still has the port.
        again: bool,
    },
}

/// `text` without what would break a line of a log, at most `bytes_max` long.
pub(super) fn printable(text: &str, bytes_max: usize) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if out.len() > bytes_max {
        out.truncate(out.floor_char_boundary(bytes_max));
    }
    out
}

/// A message as it travels.
///
/// # Errors
/// It is longer than the other side would take.
pub(super) fn encode(message: &impl Serialize, max_bytes: usize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(message).map_err(DistError::rendezvous)?;
    enclose(&json, max_bytes).map_err(|bytes| {
        DistError::rendezvous(format!("a message of {bytes} bytes: at most {max_bytes} are taken"))
    })
}

/// Reads a message, out of its envelope.
pub(super) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
