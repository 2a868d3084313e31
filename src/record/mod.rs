//! What a run leaves behind: metrics, progress, curves, TensorBoard events, DAWNBench files, the report.
