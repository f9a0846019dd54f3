//! A directive as written.

use crate::config::Span;

/// One word of a directive.
#[derive(Clone)]
pub(in crate::import) struct DirectiveWord {
    pub(in crate::import) text: String,
    pub(in crate::import) span: Span,
    pub(in crate::import) line: usize,
    /// Whether it is the first in its line.
    pub(super) starts_line: bool,
}

/// A name, its arguments, and its block if it has one.
#[derive(Clone)]
pub(in crate::import) struct Directive {
    pub(in crate::import) name: DirectiveWord,
    pub(in crate::import) args: Vec<DirectiveWord>,
    pub(in crate::import) block: Option<Vec<Directive>>,
    /// The name of its file, for messages.
    pub(super) file: String,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct SourceLine {
    pub(in crate::import) file: String,
    pub(in crate::import) line: usize,
}

impl Directive {
    /// Returns the text of argument `index`; empty if there is none.
    pub(in crate::import) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |word| &word.text)
    }

    /// Returns the arguments' texts.
    pub(in crate::import) fn arg_texts(&self) -> Vec<&str> {
        self.args.iter().map(|word| word.text.as_str()).collect()
    }

    /// Returns the directive in one line as written, at most 100 characters, its block as `{}`.
    pub(in crate::import) fn to_one_line(&self) -> String {
        let words = std::iter::once(&self.name).chain(&self.args).map(|word| word.span.text());
        let words: Vec<&str> = words.flat_map(str::split_whitespace).collect();
        let mut text = words.join(" ");
        if let Some((end, _)) = text.char_indices().nth(100) {
            text.truncate(end);
            text.push_str("...");
        }
        text + if self.block.is_some() { " {}" } else { ";" }
    }

    /// Returns the directive and its place, for a comment.
    pub(in crate::import) fn to_comment(&self) -> String {
        let SourceLine { file, line } = self.source_line();
        format!("{} ({file}:{line})", self.to_one_line().trim_end_matches(" {}").trim_end_matches(';'))
    }

    /// Returns the directive with an empty block, if it has one.
    pub(in crate::import) fn without_block(&self) -> Self {
        let block = self.block.as_ref().map(|_| Vec::new());
        Self { name: self.name.clone(), args: self.args.clone(), block, file: self.file.clone() }
    }

    /// Returns whether another one has the same place and words.
    pub(in crate::import) fn is_same_as(&self, other: &Self) -> bool {
        self.source_line() == other.source_line() && self.to_one_line() == other.to_one_line()
    }

    /// Returns the file and line of its name.
    pub(in crate::import) fn source_line(&self) -> SourceLine {
        SourceLine { file: self.file.clone(), line: self.name.line }
    }
}
