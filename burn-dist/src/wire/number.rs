//! Number formats on the wire: what a buffer's elements become when they travel.
