//! What is said about directives: errors, and remarks on those that are not carried over.

use super::tree::Directive;
use crate::config::Issue;

/// The most errors that are told of one configuration.
const ISSUES: usize = 50;

/// One directive that is not carried over as it stands, or a suggestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Why it is listed.
    pub kind: Kind,
    /// The directive in one line, as written.
    pub what: String,
    /// The file it is in.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The reason, or what there is instead.
    pub why: String,
}

/// Why a directive is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It means something that is not done here.
    Cannot,
    /// It is not done here yet.
    NotYet,
    /// Carried; but look at it.
    Note,
    /// It is so by itself here, or has no meaning.
    NotNeeded,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Where {
    pub(super) file: String,
    pub(super) line: usize,
}

/// Everything that is said while importing.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) issues: Vec<Issue>,
    pub(super) remarks: Vec<Remark>,
    /// Directives that were carried over.
    pub(super) carried: usize,
}

impl Kind {
    /// The words in front of a remark.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cannot => "cannot",
            Self::NotYet => "not yet",
            Self::Note => "note",
            Self::NotNeeded => "not needed",
        }
    }
}

impl Notes {
    /// Whether nobody would read on: finding the line of an error is not free either.
    pub(super) fn full(&self) -> bool {
        self.issues.len() >= ISSUES
    }

    pub(super) fn issue(&mut self, issue: Issue) {
        if !self.full() {
            self.issues.push(issue);
        }
    }

    pub(super) fn cannot(&mut self, directive: &Directive, why: impl Into<String>) {
        self.remark(Kind::Cannot, directive, why.into());
    }

    pub(super) fn not_yet(&mut self, directive: &Directive, why: impl Into<String>) {
        self.remark(Kind::NotYet, directive, why.into());
    }

    pub(super) fn note(&mut self, directive: &Directive, why: impl Into<String>) {
        self.remark(Kind::Note, directive, why.into());
    }

    pub(super) fn not_needed(&mut self, directive: &Directive, why: impl Into<String>) {
        self.remark(Kind::NotNeeded, directive, why.into());
    }

    pub(super) fn remark(&mut self, kind: Kind, directive: &Directive, why: String) {
        self.about(kind, directive.shown(), directive.place(), why);
    }

    /// A remark on a part of a directive, `what`.
    pub(super) fn about(&mut self, kind: Kind, what: String, at: Where, why: String) {
        self.remarks.push(Remark { kind, what, file: at.file, line: at.line, why });
    }
}
