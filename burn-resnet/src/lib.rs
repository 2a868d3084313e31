//! burn-resnet
