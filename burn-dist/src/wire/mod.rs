//! What travels: frame headers, checksums, number formats. Pure: no socket.

pub(crate) mod checksum;
pub(crate) mod header;
pub(crate) mod number;
