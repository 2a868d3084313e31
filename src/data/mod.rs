//! Pictures on disk to batches of bytes: sources, decoding, augmentation, sampling, loading.
