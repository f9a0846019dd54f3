//! The `tokenweir` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tokenweir::cli::main()
}
