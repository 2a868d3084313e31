//! sprint
fn main() {}
