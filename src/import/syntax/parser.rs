//! Directives and their blocks, included files in their places.

use std::path::{Path, PathBuf};

use super::glob;
use super::lexer::{ConfigToken, Lexer, SyntaxError, TokenKind};
use crate::config::Span;
use crate::import::FileAccess;
use crate::import::directives::table;
use crate::import::report::{ImportReport, SourceLine};

/// Blocks, and files that include files, may be this deep.
const MAX_DEPTH: usize = 32;
/// The most files that are read.
const MAX_FILES: usize = 1_000;
/// The most text that is read, all files together.
const MAX_TOTAL_BYTES: usize = 32 << 20;

/// One word of a directive.
#[derive(Clone)]
pub(in crate::import) struct DirectiveWord {
    pub(in crate::import) text: String,
    pub(in crate::import) span: Span,
    pub(in crate::import) line: usize,
    /// Whether it is the first in its line.
    starts_line: bool,
}

/// A name, its arguments, and its block if it has one.
#[derive(Clone)]
pub(in crate::import) struct Directive {
    pub(in crate::import) name: DirectiveWord,
    pub(in crate::import) args: Vec<DirectiveWord>,
    pub(in crate::import) block: Option<Vec<Directive>>,
    /// The file it is in, as shown to people.
    file: String,
}

impl Directive {
    /// The text of argument `i`, empty if there is none.
    pub(in crate::import) fn arg(&self, i: usize) -> &str {
        self.args.get(i).map_or("", |word| &word.text)
    }

    /// The arguments' texts.
    pub(in crate::import) fn arg_texts(&self) -> Vec<&str> {
        self.args.iter().map(|word| word.text.as_str()).collect()
    }

    /// The directive in one line as it was written.
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

    /// Where it is.
    pub(in crate::import) fn source_line(&self) -> SourceLine {
        SourceLine { file: self.file.clone(), line: self.name.line }
    }
}

/// Reads a file and what it includes.
pub(in crate::import) struct NginxParser<'a> {
    files: &'a FileAccess<'a>,
    folder: PathBuf,
    opened_files: usize,
    read_bytes: usize,
    pub(in crate::import) report: &'a mut ImportReport,
}

/// A directive whose end has not come.
#[derive(Default)]
struct PendingDirective {
    words: Vec<DirectiveWord>,
}

impl<'a> NginxParser<'a> {
    /// `main` is the main file: included paths are relative to its folder.
    pub(in crate::import) fn new(main: &Path, files: &'a FileAccess<'a>, notes: &'a mut ImportReport) -> Self {
        let folder = main.parent().map(Path::to_owned).unwrap_or_default();
        Self { files, folder, opened_files: 0, read_bytes: 0, report: notes }
    }

    /// Reads the text of a file; what is wrong is noted. `depth` is how many files lead here.
    pub(in crate::import) fn parse_file(&mut self, path: &Path, text: &str, depth: usize) -> Vec<Directive> {
        self.read_bytes += text.len();
        let file = path.display().to_string();
        let whole = Span::from_text(file.clone(), text);
        let mut lexer = Lexer::new(text);
        let mut open = PendingDirective::default();
        // The directives that the blocks being read belong to, with what was read beside them.
        let mut blocks: Vec<(Directive, Vec<Directive>)> = Vec::new();
        let mut done: Vec<Directive> = Vec::new();
        loop {
            if self.report.is_full() {
                return done;
            }
            let token = match lexer.next_token() {
                Ok(Some(token)) => token,
                Ok(None) => break,
                Err(slip) => return self.report_fatal(&whole, slip),
            };
            let ConfigToken { kind, span, line, starts_line: leads } = token;
            let at = whole.with_range(span.clone());
            match kind {
                TokenKind::Word(text) => open.words.push(DirectiveWord { text, span: at, line, starts_line: leads }),
                TokenKind::Semicolon => match open.finish(&file) {
                    Some(directive) => self.add_or_include(directive, &mut done, depth + blocks.len()),
                    None => self.report_empty_directive(&at),
                },
                TokenKind::OpenBrace => {
                    let Some(mut directive) = open.finish(&file) else {
                        let error = syntax_error(span, "a block without a name", "name it before the `{`");
                        return self.report_fatal(&whole, error);
                    };
                    if directive.name.text.ends_with("_by_lua_block") {
                        if let Err(slip) = lexer.skip_block() {
                            return self.report_fatal(&whole, slip);
                        }
                        directive.block = Some(Vec::new());
                        done.push(directive);
                        continue;
                    }
                    if blocks.len() + depth >= MAX_DEPTH {
                        let error = syntax_error(span, "blocks are nested too deeply", "flatten them");
                        return self.report_fatal(&whole, error);
                    }
                    self.detect_missing_semicolon(&directive);
                    blocks.push((directive, std::mem::take(&mut done)));
                }
                TokenKind::CloseBrace => {
                    self.report_unended(&mut open);
                    let Some((mut directive, before)) = blocks.pop() else {
                        let error = syntax_error(span, "this `}` closes nothing", "leave it out");
                        return self.report_fatal(&whole, error);
                    };
                    directive.block = Some(std::mem::replace(&mut done, before));
                    done.push(directive);
                }
            }
        }
        self.report_unclosed(&open, blocks.last().map(|(directive, _)| directive));
        done
    }

    fn report_empty_directive(&mut self, at: &Span) {
        self.report.add_diagnostic(at.diagnostic("a `;` without a directive").with_help("leave it out"));
    }

    /// Reports words before a `}` that no `;` ends, and drops them.
    fn report_unended(&mut self, open: &mut PendingDirective) {
        if let Some(last) = open.words.last() {
            let issue = last.span.diagnostic("a `;` is missing after this").with_help("end every directive with `;`");
            self.report.add_diagnostic(issue);
            open.words.clear();
        }
    }

    /// Says what is open at the end of a file.
    fn report_unclosed(&mut self, open: &PendingDirective, block: Option<&Directive>) {
        if let Some(last) = open.words.last() {
            self.report.add_diagnostic(
                last.span.diagnostic("a `;` or `{` is missing after this").with_help("end every directive with `;`"),
            );
        }
        if let Some(directive) = block {
            let issue = directive.name.span.diagnostic(format!("the block of `{}` is not closed", directive.name.text));
            self.report.add_diagnostic(issue.with_help("add the missing `}`"));
        }
    }

    fn report_fatal(&mut self, whole: &Span, slip: SyntaxError) -> Vec<Directive> {
        self.report.add_diagnostic(whole.with_range(slip.span).diagnostic(slip.message).with_help(slip.help));
        Vec::new()
    }

    /// Keeps a directive, or puts what it includes in its place.
    fn add_or_include(&mut self, directive: Directive, done: &mut Vec<Directive>, depth: usize) {
        self.detect_missing_semicolon(&directive);
        if directive.name.text != "include" {
            done.push(directive);
            return;
        }
        let [word] = directive.args.as_slice() else {
            self.report.add_diagnostic(
                directive
                    .name
                    .span
                    .diagnostic("`include` takes one path")
                    .with_help("for example include conf.d/*.conf;"),
            );
            return;
        };
        // What files are called is for servers of files; on another machine it need not be there.
        if word.text == "mime.types" || word.text.ends_with("/mime.types") {
            self.report.add_not_needed(&directive, "replicas name the types of their answers");
            return;
        }
        let path = self.folder.join(&word.text);
        let paths = if glob::is_pattern(&word.text) { glob::expand_pattern(&path, self.files) } else { vec![path] };
        if paths.is_empty() {
            self.report.add_not_needed(&directive, "no file has such a name here");
            return;
        }
        let mut read = false;
        for path in paths {
            self.opened_files += 1;
            if depth + 1 >= MAX_DEPTH || self.opened_files > MAX_FILES || self.read_bytes > MAX_TOTAL_BYTES {
                let issue = word.span.diagnostic("too many files are included");
                self.report.add_diagnostic(issue.with_help("does a file include itself?"));
                return;
            }
            match (self.files.read)(&path) {
                Ok(text) => {
                    read = true;
                    done.extend(self.parse_file(&path, &text, depth + 1));
                }
                Err(error) => {
                    self.report.add_impossible(&directive, format!("{} cannot be read: {error}", path.display()));
                }
            }
        }
        self.report.carried_count += usize::from(read);
    }

    /// Finds the `;` that was forgotten at the end of a line: the next line begins with a directive's name.
    fn detect_missing_semicolon(&mut self, directive: &Directive) {
        let mut last = &directive.name;
        for word in &directive.args {
            if word.starts_line && is_directive_start(&word.text) && table::find_rule(&directive.name.text).is_some() {
                let issue = last.span.diagnostic("a `;` is missing after this");
                self.report.add_diagnostic(issue.with_help(format!("`{}` begins another directive", word.text)));
                return;
            }
            last = word;
        }
    }
}

impl PendingDirective {
    fn finish(&mut self, file: &str) -> Option<Directive> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let name = words.next()?;
        Some(Directive { name, args: words.collect(), block: None, file: file.to_owned() })
    }
}

/// Whether a word at the beginning of a line can hardly be anything but a directive's name.
fn is_directive_start(word: &str) -> bool {
    let short = ["server", "listen", "location", "upstream", "include", "return", "root"].contains(&word);
    short || (word.contains('_') && table::find_rule(word).is_some())
}

fn syntax_error(span: std::ops::Range<usize>, message: &str, help: &'static str) -> SyntaxError {
    SyntaxError { span, message: message.to_owned(), help }
}
