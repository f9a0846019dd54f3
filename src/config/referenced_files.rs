//! The files that a configuration names and that are read by others, with the places that name them.

use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics, Span};

/// Files by the place where they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReferencedFiles(Vec<(PathBuf, Diagnostic)>);

impl ReferencedFiles {
    /// The empty path stands for what the system trusts.
    pub(super) fn add(&mut self, file: &Path, at: &Span) {
        self.0.push((file.to_owned(), at.diagnostic("")));
    }

    /// What is wrong with `file`, told where it is named, or at the start of the configuration if nothing names it.
    pub(super) fn file_error(&self, file: &Path, message: String, help: String) -> Diagnostics {
        let named = self.0.iter().find(|(named, _)| named == file).map(|(_, issue)| issue.clone());
        let mut issue = named.unwrap_or_else(|| Span::from_text("configuration", "").diagnostic("").without_excerpt());
        issue.message = message;
        Diagnostics::new(&issue.file.clone(), vec![issue.with_help(help)])
    }
}
