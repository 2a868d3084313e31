//! Every picture of a source read once, by all cores: which of them are damaged.

use std::convert::Infallible;

use super::{cores::in_parallel, error::SampleError, picture::Picture, source::Source};

/// Pictures that a thread takes at a time.
const RUN: usize = 16;

/// Decodes every picture and returns what is wrong with those that cannot be used, in the source's order. `advance` is
/// told how many more were looked at.
pub fn damaged(source: &dyn Source, advance: impl Fn(u64) + Sync) -> Vec<SampleError> {
    faults(source, advance, |picture: &mut Picture, index| source.read(index, picture))
}

/// As [`damaged`], of shards whose pictures were decoded before they were written: their checksums say as much.
pub(crate) fn changed(source: &dyn Source, advance: impl Fn(u64) + Sync) -> Vec<SampleError> {
    faults(source, advance, |file: &mut Vec<u8>, index| source.read_file(index, file).map(drop))
}

/// What `read`, into memory of a thread's own, says of each picture.
fn faults<T: Default>(
    source: &dyn Source,
    advance: impl Fn(u64) + Sync,
    read: impl Fn(&mut T, usize) -> Result<(), SampleError> + Sync,
) -> Vec<SampleError> {
    let num_images = source.num_images();
    let runs = in_parallel(num_images.div_ceil(RUN), |own: &mut T, run| {
        let run = run * RUN..((run + 1) * RUN).min(num_images);
        let num_done = run.len() as u64;
        let found: Vec<SampleError> = run.filter_map(|index| read(own, index).err()).collect();
        advance(num_done);
        Ok::<_, Infallible>(found)
    });
    let Ok(runs) = runs;
    runs.into_iter().flatten().collect()
}
