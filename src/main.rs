//! The `tokenweir` binary.

use std::process::ExitCode;

/// glibc's allocator keeps what a burst of prompts took and costs more per event. Without huge pages (`no_thp`): they kept
/// a fifth more memory resident, in steps, and saved no CPU that could be measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tokenweir::cli::main()
}
