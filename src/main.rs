//! The `tokenweir` binary.

use std::process::ExitCode;

/// glibc's allocator keeps what a burst of prompts took and costs more per event.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tokenweir::cli::main()
}
