//! What is said about directives: errors, and remarks on those that are not carried over.

use super::syntax::parser::Directive;
use crate::config::Diagnostic;

/// The most errors that are told of one configuration.
const MAX_DIAGNOSTICS: usize = 50;

/// One directive that is not carried over as it stands, or a suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRemark {
    /// Why it is listed.
    pub kind: RemarkKind,
    /// The directive in one line, as written.
    pub subject: String,
    /// The file it is in.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The reason, or what there is instead.
    pub reason: String,
}

/// Why a directive is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemarkKind {
    /// It means something that is not done here.
    Impossible,
    /// It is not done here yet.
    Unsupported,
    /// Carried; but look at it.
    Note,
    /// It is so by itself here, or has no meaning.
    NotNeeded,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceLine {
    pub(super) file: String,
    pub(super) line: usize,
}

/// Everything that is said while importing.
#[derive(Default)]
pub(super) struct ImportReport {
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) remarks: Vec<ImportRemark>,
    /// Directives that were carried over.
    pub(super) carried_count: usize,
}

impl RemarkKind {
    /// The words in front of a remark.
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
    /// Whether nobody would read on: finding the line of an error is not free either.
    pub(super) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    pub(super) fn add_diagnostic(&mut self, issue: Diagnostic) {
        if !self.is_full() {
            self.diagnostics.push(issue);
        }
    }

    pub(super) fn add_impossible(&mut self, directive: &Directive, why: impl Into<String>) {
        self.add_remark(RemarkKind::Impossible, directive, why.into());
    }

    pub(super) fn add_unsupported(&mut self, directive: &Directive, why: impl Into<String>) {
        self.add_remark(RemarkKind::Unsupported, directive, why.into());
    }

    pub(super) fn add_note(&mut self, directive: &Directive, why: impl Into<String>) {
        self.add_remark(RemarkKind::Note, directive, why.into());
    }

    pub(super) fn add_not_needed(&mut self, directive: &Directive, why: impl Into<String>) {
        self.add_remark(RemarkKind::NotNeeded, directive, why.into());
    }

    pub(super) fn add_remark(&mut self, kind: RemarkKind, directive: &Directive, why: String) {
        self.add_remark_at(kind, directive.to_one_line(), directive.source_line(), why);
    }

    /// A remark on a part of a directive, `what`.
    pub(super) fn add_remark_at(&mut self, kind: RemarkKind, what: String, at: SourceLine, why: String) {
        self.remarks.push(ImportRemark { kind, subject: what, file: at.file, line: at.line, reason: why });
    }
}
