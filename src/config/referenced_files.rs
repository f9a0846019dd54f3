//! The files that a configuration names, with the places that name them.

use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics, Span};

/// Files with the place where each is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReferencedFiles(Vec<(PathBuf, Diagnostic)>);

impl ReferencedFiles {
    /// Adds a file; the empty path stands for the system's trusted issuers.
    pub(super) fn add(&mut self, file: &Path, span: &Span) {
        self.0.push((file.to_owned(), span.diagnostic("")));
    }

    /// Returns an error of `file` at the place that names it, or at the start of the configuration if no place does.
    pub(super) fn file_error(&self, file: &Path, message: String, help: String) -> Diagnostics {
        let named = self.0.iter().find(|(named, _)| named == file).map(|(_, place)| place.clone());
        let mut error = named.unwrap_or_else(|| Span::from_text("configuration", "").diagnostic("").without_excerpt());
        error.message = message;
        Diagnostics::new(&error.file.clone(), vec![error.with_help(help)])
    }
}
