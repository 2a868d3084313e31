//! What the phases are validated on: copies of the data, and, for rectangles, the sizes of their pictures, which rank 0
//! finds out for all.

use std::collections::BTreeMap;

use burn_dist::Communicator;

use super::evaluate::comparable_crop;
use crate::{
    config::Plan,
    data::{Copies, Loader, LoaderConfig, PictureSize, Rectangles, sizes, user_caches},
    error::{Error, Result},
    recipe::{Phase, ValCrop},
};

/// The pictures of a run, ready to be loaded.
#[derive(Debug)]
pub(super) struct Validation<'a> {
    data: &'a Copies,
    /// By the copy's name: of those that a phase validates by rectangles.
    sizes: BTreeMap<Option<&'a str>, Vec<PictureSize>>,
}

impl<'a> Validation<'a> {
    /// Looks up or reads the sizes that the plan's phases need. A collective; `note` tells the user what takes long.
    pub(super) fn prepare(
        plan: &'a Plan,
        data: &'a Copies,
        comm: &Communicator,
        mut note: impl FnMut(&str),
    ) -> Result<Self> {
        let mut all = BTreeMap::new();
        for phase in plan.config.phase.iter().filter(|phase| phase.val == ValCrop::Rect) {
            let name = phase.data.as_deref();
            if all.contains_key(&name) {
                continue;
            }
            let val = &data.get(name)?.val;
            let mut mine = Vec::new();
            if comm.rank().is_main() {
                let caches = user_caches();
                let found = sizes::of(&**val, plan.config.data.on_bad_file, caches.as_deref(), &mut note)?;
                mine = sizes::to_bytes(&found);
            }
            let limit_bytes = val.num_images() * size_of::<PictureSize>();
            let first = comm.all_gather_bytes(&mine, limit_bytes)?.swap_remove(0);
            let sizes = sizes::from_bytes(&first, val.num_images())
                .ok_or_else(|| Error::run("rank 0 has another number of validation pictures"))?;
            all.insert(name, sizes);
        }
        Ok(Self { data, sizes: all })
    }

    /// The width and height of the images that the phase will be evaluated on, of rectangles the largest.
    pub(super) fn shapes(&self, phase: &Phase) -> Vec<(usize, usize)> {
        let (size, resize) = phase.validation();
        let is_rect = phase.val == ValCrop::Rect;
        let square = |side: u32| (side as usize, side as usize);
        let own = match self.sizes.get(&phase.data.as_deref()).filter(|_| is_rect) {
            Some(sizes) => {
                let chunks = Rectangles::new(sizes, phase.batch_size, size as usize);
                chunks.shapes().iter().copied().max_by_key(|(width, height)| width * height)
            }
            None => Some(square(size)),
        };
        let comparable = comparable_crop(size, resize, is_rect).map(|(side, _)| square(side));
        own.into_iter().chain(comparable).collect()
    }

    /// A loader of the phase's validation pictures, and how many have no size and are not among them.
    pub(super) fn loader(&self, phase: &Phase, config: LoaderConfig, crop: ValCrop) -> Result<(Loader, u64)> {
        let name = phase.data.as_deref();
        let val = self.data.get(name)?.val.clone();
        match (crop, self.sizes.get(&name)) {
            (ValCrop::Rect, Some(sizes)) => {
                let unreadable = sizes.iter().filter(|&&size| size == (0, 0)).count();
                Ok((Loader::rectangular(val, config, sizes)?, unreadable as u64))
            }
            _ => Ok((Loader::new(val, config)?, 0)),
        }
    }
}
