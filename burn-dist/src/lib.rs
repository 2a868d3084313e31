//! Gradients averaged over TCP: the identity of a process in a job.

pub mod rank;
