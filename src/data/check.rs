//! Every picture of a source decoded once, by all cores: which of them are damaged.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    cores::in_parallel,
    error::{SampleError, SampleFault},
    picture::Picture,
    source::Source,
};

/// Pictures that a thread takes at a time.
const RUN: usize = 16;

/// Decodes every picture and returns what is wrong with those that cannot be used, in the source's order. `advance` is
/// told how many more were looked at.
pub fn damaged(source: &dyn Source, advance: impl Fn(u64) + Sync) -> Vec<SampleError> {
    let num_images = source.num_images();
    let runs = in_parallel(num_images.div_ceil(RUN), |picture: &mut Picture, run| {
        let run = run * RUN..((run + 1) * RUN).min(num_images);
        let num_done = run.len() as u64;
        let found: Vec<SampleError> = run.filter_map(|index| read(source, index, picture).err()).collect();
        advance(num_done);
        Ok::<_, Infallible>(found)
    });
    let Ok(runs) = runs;
    runs.into_iter().flatten().collect()
}

/// Decodes a picture; a decoder's panic is the picture's error.
fn read(source: &dyn Source, index: usize, picture: &mut Picture) -> Result<(), SampleError> {
    catch_unwind(AssertUnwindSafe(|| source.read(index, picture))).unwrap_or_else(|_| {
        *picture = Picture::default();
        Err(SampleError { name: source.name(index), fault: SampleFault::Panicked })
    })
}
