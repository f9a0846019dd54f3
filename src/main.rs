//! The `tokenweir` binary.

use std::process::ExitCode;

/// glibc's allocator keeps the memory of a burst of prompts and costs more CPU per event. Huge pages are off
/// (`no_thp`): they kept a fifth more memory resident and saved no measurable CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tokenweir::cli::main()
}
