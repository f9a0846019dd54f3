//! The report of an import: errors, and remarks on directives that are not carried over.

use super::syntax::directive::{Directive, SourceLine};
use crate::config::Diagnostic;

/// The maximum number of errors reported for one configuration.
const MAX_DIAGNOSTICS: usize = 50;

/// A remark on one directive: why it is not carried over as it stands, or a suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRemark {
    /// The kind of remark.
    pub kind: RemarkKind,
    /// The directive in one line, as written.
    pub subject: String,
    /// The file it is in.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The reason, or the replacement.
    pub reason: String,
}

/// The kind of a remark, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemarkKind {
    /// The router cannot do what the directive asks for.
    Impossible,
    /// The router does not support it yet.
    Unsupported,
    /// Carried over, but worth a check.
    Note,
    /// The router does so without configuration, or the directive has no meaning.
    NotNeeded,
}

/// The report of an import.
#[derive(Default)]
pub(super) struct ImportReport {
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) remarks: Vec<ImportRemark>,
    /// The number of directives carried over.
    pub(super) carried_count: usize,
}

impl RemarkKind {
    /// Returns the label of a remark.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Impossible => "cannot",
            Self::Unsupported => "not yet",
            Self::Note => "note",
            Self::NotNeeded => "not needed",
        }
    }
}

impl ImportReport {
    /// Returns whether it has the maximum of errors. Further ones are useless, and finding their lines takes time.
    pub(super) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    pub(super) fn add_diagnostic(&mut self, issue: Diagnostic) {
        if !self.is_full() {
            self.diagnostics.push(issue);
        }
    }

    pub(super) fn add_impossible(&mut self, directive: &Directive, reason: impl Into<String>) {
        self.add_remark(RemarkKind::Impossible, directive, reason.into());
    }

    pub(super) fn add_unsupported(&mut self, directive: &Directive, reason: impl Into<String>) {
        self.add_remark(RemarkKind::Unsupported, directive, reason.into());
    }

    pub(super) fn add_note(&mut self, directive: &Directive, reason: impl Into<String>) {
        self.add_remark(RemarkKind::Note, directive, reason.into());
    }

    pub(super) fn add_not_needed(&mut self, directive: &Directive, reason: impl Into<String>) {
        self.add_remark(RemarkKind::NotNeeded, directive, reason.into());
    }

    pub(super) fn add_remark(&mut self, kind: RemarkKind, directive: &Directive, reason: String) {
        self.add_remark_at(kind, directive.to_one_line(), directive.source_line(), reason);
    }

    /// Adds a remark on `subject`, a part of a directive.
    pub(super) fn add_remark_at(&mut self, kind: RemarkKind, subject: String, source: SourceLine, reason: String) {
        self.remarks.push(ImportRemark { kind, subject, file: source.file, line: source.line, reason });
    }
}
