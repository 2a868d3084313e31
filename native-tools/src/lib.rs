//! Nothing: the build script says which programs a build with libjpeg-turbo lacks, and how to get them.
//!
//! A crate of its own, because burn-sprint's build script would come too late: Cargo runs it after that of the library, which
//! fails with many lines. This one depends on nothing and so comes first.
