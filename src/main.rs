//! The `tokenweir` binary.
fn main() {}
