//! The result of loading.

use std::path::Path;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::referenced_files::ReferencedFiles;
use super::settings::Settings;

/// A valid configuration and its warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedConfig {
    /// The configuration.
    pub settings: Settings,
    /// Settings that are allowed and rarely intended, by line; every message begins with `warning: `.
    pub warnings: Vec<Diagnostic>,
    pub(super) referenced_files: ReferencedFiles,
}

impl LoadedConfig {
    /// Returns an error of a file that the configuration names, at the place that names it.
    pub fn file_error(&self, file: &Path, message: impl Into<String>, help: impl Into<String>) -> Diagnostics {
        self.referenced_files.file_error(file, message.into(), help.into())
    }
}
