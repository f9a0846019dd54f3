//! The results of building a configuration, next to the settings.

use super::diagnostics::Diagnostic;
use super::referenced_files::ReferencedFiles;

/// The errors, warnings and referenced files found while the configuration is built.
pub(super) struct BuildContext {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) referenced_files: ReferencedFiles,
}
