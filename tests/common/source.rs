//! What [`burn_sprint::data::Source`] asks of pictures that are only drawn when they are read.

/// The first methods of a source with the fields `num_images` and `class_names`: in colour, classes in turn.
macro_rules! classes_in_turn {
    () => {
        fn num_images(&self) -> usize {
            self.num_images
        }

        fn class_names(&self) -> &[String] {
            &self.class_names
        }

        fn label(&self, index: usize) -> u32 {
            (index % self.class_names.len()) as u32
        }

        fn name(&self, index: usize) -> String {
            format!("picture {index}")
        }

        fn channels(&self) -> Channels {
            Channels::Rgb
        }
    };
}
pub(crate) use classes_in_turn;
