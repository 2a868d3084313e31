//! What travels: frame headers, envelopes of control messages, checksums, number formats. Pure: no socket.

pub(crate) mod checksum;
pub(crate) mod envelope;
pub(crate) mod header;
pub(crate) mod number;
