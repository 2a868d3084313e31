//! The command `sprint`: words in, exit status out. Everything it does is the library's.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    burn_sprint::cli::main()
}
