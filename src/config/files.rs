//! The files that a configuration names and that are read by others, with the places that name them.

use std::path::{Path, PathBuf};

use super::report::{Issue, Place, Report};

/// Files by the place where they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Issue)>);

impl Files {
    /// The empty path stands for what the system trusts.
    pub(super) fn add(&mut self, file: &Path, at: &Place) {
        self.0.push((file.to_owned(), at.issue("")));
    }

    /// What is wrong with `file`, told where it is named, or at the start of the configuration if nothing names it.
    pub(super) fn blame(&self, file: &Path, message: String, help: String) -> Report {
        let named = self.0.iter().find(|(named, _)| named == file).map(|(_, issue)| issue.clone());
        let mut issue = named.unwrap_or_else(|| Place::whole("configuration", "").issue("").bare());
        issue.message = message;
        Report::new(&issue.file.clone(), vec![issue.help(help)])
    }
}
