//! Lines on standard output and standard error.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to standard output.
pub(super) fn print_line(line: impl Display) {
    // A closed pipe is not an error: its reader has read enough.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to standard error.
pub(super) fn print_error(line: impl Display) {
    // There is no other place to report the failure.
    let _ = writeln!(io::stderr(), "{line}");
}
