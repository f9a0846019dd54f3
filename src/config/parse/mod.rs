//! Values of the configuration and their places in the file: sizes, durations, names, suggestions.

pub(super) mod nginx_hints;
pub(super) mod renamed_keys;
pub(super) mod suggest;
pub(super) mod syntax;
pub(crate) mod units;
pub(super) mod value;
