//! The parser of nginx's configuration files. Included files are parsed in place of their `include`.

use std::io;
use std::path::{Path, PathBuf};

use super::directive::{Directive, DirectiveWord};
use super::glob;
use super::lexer::{ConfigToken, Lexer, SyntaxError, TokenKind};
use crate::config::Span;
use crate::import::file_access::FileAccess;
use crate::import::report::ImportReport;

/// The maximum depth of nested blocks and included files.
const MAX_DEPTH: usize = 32;
/// The maximum number of files of a configuration.
const MAX_FILES: usize = 1_000;
/// The maximum size of all files of a configuration together.
const MAX_TOTAL_BYTES: usize = 32 << 20;

/// Files that nginx and certbot install, by the last parts of their path. They refuse nothing, and may be missing where
/// the configuration is imported.
const HARMLESS_FILES: [(&str, &str); 7] = [
    ("mime.types", "replicas set the content type"),
    ("modules-enabled/*.conf", "modules are not loaded"),
    ("options-ssl-nginx.conf", "the TLS defaults are secure and fixed"),
    ("fastcgi_params", "replicas are HTTP/1.1 servers"),
    ("fastcgi.conf", "replicas are HTTP/1.1 servers"),
    ("uwsgi_params", "replicas are HTTP/1.1 servers"),
    ("scgi_params", "replicas are HTTP/1.1 servers"),
];

/// Returns whether a path ends with the parts of `name`.
fn is_harmless_file(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// Parses a file and the files that it includes.
pub(in crate::import) struct NginxParser<'a> {
    files: &'a FileAccess<'a>,
    /// Returns whether nginx or a known module has a directive of this name.
    is_directive: &'a dyn Fn(&str) -> bool,
    /// The main file's folder; included paths are relative to it.
    folder: PathBuf,
    opened_files: usize,
    read_bytes: usize,
    report: ImportReport,
}

/// A directive that no `;` or `{` has ended yet.
#[derive(Default)]
struct PendingDirective {
    words: Vec<DirectiveWord>,
}

impl<'a> NginxParser<'a> {
    pub(in crate::import) fn new(
        main: &Path,
        files: &'a FileAccess<'a>,
        is_directive: &'a dyn Fn(&str) -> bool,
    ) -> Self {
        let folder = main.parent().map(Path::to_owned).unwrap_or_default();
        Self { files, is_directive, folder, opened_files: 0, read_bytes: 0, report: ImportReport::default() }
    }

    pub(in crate::import) fn into_report(self) -> ImportReport {
        self.report
    }

    /// Parses the text of a file and reports errors. `depth` is the number of enclosing blocks and files.
    pub(in crate::import) fn parse_file(&mut self, path: &Path, text: &str, depth: usize) -> Vec<Directive> {
        self.read_bytes += text.len();
        let file = path.display().to_string();
        let whole = Span::from_text(file.clone(), text);
        let mut lexer = Lexer::new(text);
        let mut pending = PendingDirective::default();
        // The directives of the open blocks, each with the directives before it in its own block.
        let mut blocks: Vec<(Directive, Vec<Directive>)> = Vec::new();
        let mut done: Vec<Directive> = Vec::new();
        loop {
            if self.report.is_full() {
                return done;
            }
            let token = match lexer.next_token() {
                Ok(Some(token)) => token,
                Ok(None) => break,
                Err(error) => return self.report_fatal(&whole, error),
            };
            let ConfigToken { kind, span, line, starts_line } = token;
            let token_span = whole.with_range(span.clone());
            match kind {
                TokenKind::Word(text) => {
                    pending.words.push(DirectiveWord { text, span: token_span, line, starts_line });
                }
                TokenKind::Semicolon => match pending.finish(&file) {
                    Some(directive) => self.add_or_include(directive, &mut done, depth + blocks.len()),
                    None => self.report_empty_directive(&token_span),
                },
                TokenKind::OpenBrace => {
                    let Some(mut directive) = pending.finish(&file) else {
                        let error = syntax_error(span, "a block without a name", "name it before the `{`");
                        return self.report_fatal(&whole, error);
                    };
                    if directive.name.text.ends_with("_by_lua_block") {
                        if let Err(error) = lexer.skip_block() {
                            return self.report_fatal(&whole, error);
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
                    self.report_unended(&mut pending);
                    let Some((mut directive, before)) = blocks.pop() else {
                        let error = syntax_error(span, "this `}` closes no block", "remove it");
                        return self.report_fatal(&whole, error);
                    };
                    directive.block = Some(std::mem::replace(&mut done, before));
                    done.push(directive);
                }
            }
        }
        self.report_unclosed(&pending, blocks.last().map(|(directive, _)| directive));
        done
    }

    fn report_empty_directive(&mut self, span: &Span) {
        self.report.add_diagnostic(span.diagnostic("a `;` without a directive").with_help("remove it"));
    }

    /// Reports words before a `}` that no `;` ends, and drops them.
    fn report_unended(&mut self, pending: &mut PendingDirective) {
        if let Some(last) = pending.words.last() {
            let issue = last.span.diagnostic("a `;` is missing after this").with_help("end every directive with `;`");
            self.report.add_diagnostic(issue);
            pending.words.clear();
        }
    }

    /// Reports a directive and a block that are open at the end of a file.
    fn report_unclosed(&mut self, pending: &PendingDirective, block: Option<&Directive>) {
        if let Some(last) = pending.words.last() {
            self.report.add_diagnostic(
                last.span.diagnostic("a `;` or `{` is missing after this").with_help("end every directive with `;`"),
            );
        }
        if let Some(directive) = block {
            let issue = directive.name.span.diagnostic(format!("the block of `{}` is not closed", directive.name.text));
            self.report.add_diagnostic(issue.with_help("add the missing `}`"));
        }
    }

    fn report_fatal(&mut self, whole: &Span, error: SyntaxError) -> Vec<Directive> {
        self.report.add_diagnostic(whole.with_range(error.span).diagnostic(error.message).with_help(error.help));
        Vec::new()
    }

    /// Adds a directive, or the directives of the files that it includes.
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
        let path = self.folder.join(&word.text);
        let paths = match glob::is_pattern(&word.text) {
            true => glob::expand_pattern(&path, self.files),
            false => Ok(vec![path]),
        };
        let paths = match paths {
            Ok(paths) if paths.is_empty() => return self.report.add_not_needed(&directive, "no file matches"),
            Ok(paths) => paths,
            Err(error) => return self.report_unreadable(&directive, word, &word.text, &error),
        };
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
                Err(error) => self.report_unreadable(&directive, word, &path.display().to_string(), &error),
            }
        }
        self.report.carried_count += usize::from(read);
    }

    /// Reports an included file, or the folder of a pattern, that cannot be read.
    fn report_unreadable(&mut self, directive: &Directive, word: &DirectiveWord, path: &str, error: &io::Error) {
        if let Some((_, reason)) = HARMLESS_FILES.iter().find(|(name, _)| is_harmless_file(&word.text, name)) {
            return self.report.add_not_needed(directive, *reason);
        }
        let issue = word.span.diagnostic(format!("{path} cannot be read: {error}"));
        let help = "its directives may refuse requests: import where nginx runs, copy it to here, or remove this line";
        self.report.add_diagnostic(issue.with_help(help));
    }

    /// Reports a missing `;` at the end of a line, if the next line begins with a directive's name.
    fn detect_missing_semicolon(&mut self, directive: &Directive) {
        let mut last = &directive.name;
        for word in &directive.args {
            if word.starts_line && self.starts_directive(&word.text) && (self.is_directive)(&directive.name.text) {
                let issue = last.span.diagnostic("a `;` is missing after this");
                self.report.add_diagnostic(issue.with_help(format!("`{}` begins another directive", word.text)));
                return;
            }
            last = word;
        }
    }

    /// Returns whether a word at the beginning of a line is almost certainly a directive's name.
    fn starts_directive(&self, word: &str) -> bool {
        let short = ["server", "listen", "location", "upstream", "include", "return", "root"].contains(&word);
        short || (word.contains('_') && (self.is_directive)(word))
    }
}

impl PendingDirective {
    /// Returns the directive of the words so far, and clears them; `None` without words.
    fn finish(&mut self, file: &str) -> Option<Directive> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let name = words.next()?;
        Some(Directive { name, args: words.collect(), block: None, file: file.to_owned() })
    }
}

fn syntax_error(span: std::ops::Range<usize>, message: &str, help: &'static str) -> SyntaxError {
    SyntaxError { span, message: message.to_owned(), help }
}
