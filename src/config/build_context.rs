//! The results of building a configuration, next to the settings.

use std::collections::BTreeMap;

use super::diagnostics::{Diagnostic, Span};
use super::referenced_files::ReferencedFiles;

/// The places of settings by table and key.
pub(super) type SettingSpans = BTreeMap<(&'static str, &'static str), Span>;

/// The errors, warnings and referenced files found while the configuration is built.
pub(super) struct BuildContext {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) referenced_files: ReferencedFiles,
}
