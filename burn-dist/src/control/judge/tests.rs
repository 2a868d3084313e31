//! Every rule, without a thread or a clock.
