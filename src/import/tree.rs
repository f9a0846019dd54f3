//! Directives and their blocks, included files in their places.

use std::path::{Path, PathBuf};

use super::Files;
use super::glob;
use super::lex::{Kind, Lexer, Slip, Token};
use super::remark::{Notes, Where};
use super::rules;
use crate::config::Place;

/// Blocks, and files that include files, may be this deep.
const DEEP: usize = 32;
/// The most files that are read.
const FILES: usize = 1_000;
/// The most text that is read, all files together.
const BYTES: usize = 32 << 20;

/// One word of a directive.
#[derive(Clone)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: Place,
    pub(super) line: usize,
    /// Whether it is the first in its line.
    leads: bool,
}

/// A name, its arguments, and its block if it has one.
#[derive(Clone)]
pub(super) struct Directive {
    pub(super) name: Word,
    pub(super) args: Vec<Word>,
    pub(super) block: Option<Vec<Directive>>,
    /// The file it is in, as shown to people.
    file: String,
}

impl Directive {
    /// The text of argument `i`, empty if there is none.
    pub(super) fn arg(&self, i: usize) -> &str {
        self.args.get(i).map_or("", |word| &word.text)
    }

    /// The arguments' texts.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.args.iter().map(|word| word.text.as_str()).collect()
    }

    /// The directive in one line as it was written.
    pub(super) fn shown(&self) -> String {
        let words = std::iter::once(&self.name).chain(&self.args).map(|word| word.at.written());
        let words: Vec<&str> = words.flat_map(str::split_whitespace).collect();
        let mut text = words.join(" ");
        if let Some((end, _)) = text.char_indices().nth(100) {
            text.truncate(end);
            text.push_str("...");
        }
        text + if self.block.is_some() { " {}" } else { ";" }
    }

    /// Where it is.
    pub(super) fn place(&self) -> Where {
        Where { file: self.file.clone(), line: self.name.line }
    }
}

/// Reads a file and what it includes.
pub(super) struct Loader<'a> {
    files: &'a Files<'a>,
    folder: PathBuf,
    opened: usize,
    bytes: usize,
    pub(super) notes: &'a mut Notes,
}

/// A directive whose end has not come.
#[derive(Default)]
struct Open {
    words: Vec<Word>,
}

impl<'a> Loader<'a> {
    /// `main` is the main file: included paths are relative to its folder.
    pub(super) fn new(main: &Path, files: &'a Files<'a>, notes: &'a mut Notes) -> Self {
        let folder = main.parent().map(Path::to_owned).unwrap_or_default();
        Self { files, folder, opened: 0, bytes: 0, notes }
    }

    /// Reads the text of a file; what is wrong is noted. `depth` is how many files lead here.
    pub(super) fn file(&mut self, path: &Path, text: &str, depth: usize) -> Vec<Directive> {
        self.bytes += text.len();
        let file = path.display().to_string();
        let whole = Place::whole(file.clone(), text);
        let mut lexer = Lexer::new(text);
        let mut open = Open::default();
        // The directives that the blocks being read belong to, with what was read beside them.
        let mut blocks: Vec<(Directive, Vec<Directive>)> = Vec::new();
        let mut done: Vec<Directive> = Vec::new();
        loop {
            if self.notes.full() {
                return done;
            }
            let token = match lexer.next() {
                Ok(Some(token)) => token,
                Ok(None) => break,
                Err(slip) => return self.give_up(&whole, slip),
            };
            let Token { kind, span, line, leads } = token;
            let at = whole.at(span.clone());
            match kind {
                Kind::Word(text) => open.words.push(Word { text, at, line, leads }),
                Kind::End => match open.take(&file) {
                    Some(directive) => self.add(directive, &mut done, depth + blocks.len()),
                    None => self.notes.issue(at.issue("a `;` without a directive").help("leave it out")),
                },
                Kind::Open => {
                    let Some(mut directive) = open.take(&file) else {
                        return self.give_up(&whole, slip(span, "a block without a name", "name it before the `{`"));
                    };
                    if directive.name.text.ends_with("_by_lua_block") {
                        if let Err(slip) = lexer.skip_block() {
                            return self.give_up(&whole, slip);
                        }
                        directive.block = Some(Vec::new());
                        done.push(directive);
                        continue;
                    }
                    if blocks.len() + depth >= DEEP {
                        return self.give_up(&whole, slip(span, "blocks are nested too deeply", "flatten them"));
                    }
                    self.forgotten(&directive);
                    blocks.push((directive, std::mem::take(&mut done)));
                }
                Kind::Close => {
                    if let Some(last) = open.words.last() {
                        let issue = last.at.issue("a `;` is missing after this").help("end every directive with `;`");
                        self.notes.issue(issue);
                        open.words.clear();
                    }
                    let Some((mut directive, before)) = blocks.pop() else {
                        return self.give_up(&whole, slip(span, "this `}` closes nothing", "leave it out"));
                    };
                    directive.block = Some(std::mem::replace(&mut done, before));
                    done.push(directive);
                }
            }
        }
        self.unfinished(&open, blocks.last().map(|(directive, _)| directive));
        done
    }

    /// Says what is open at the end of a file.
    fn unfinished(&mut self, open: &Open, block: Option<&Directive>) {
        if let Some(last) = open.words.last() {
            self.notes.issue(last.at.issue("a `;` or `{` is missing after this").help("end every directive with `;`"));
        }
        if let Some(directive) = block {
            let issue = directive.name.at.issue(format!("the block of `{}` is not closed", directive.name.text));
            self.notes.issue(issue.help("add the missing `}`"));
        }
    }

    fn give_up(&mut self, whole: &Place, slip: Slip) -> Vec<Directive> {
        self.notes.issue(whole.at(slip.span).issue(slip.message).help(slip.help));
        Vec::new()
    }

    /// Keeps a directive, or puts what it includes in its place.
    fn add(&mut self, directive: Directive, done: &mut Vec<Directive>, depth: usize) {
        self.forgotten(&directive);
        if directive.name.text != "include" {
            done.push(directive);
            return;
        }
        let [word] = directive.args.as_slice() else {
            self.notes
                .issue(directive.name.at.issue("`include` takes one path").help("for example include conf.d/*.conf;"));
            return;
        };
        // What files are called is for servers of files; on another machine it need not be there.
        if word.text == "mime.types" || word.text.ends_with("/mime.types") {
            self.notes.not_needed(&directive, "replicas name the types of their answers");
            return;
        }
        let path = self.folder.join(&word.text);
        let paths = if glob::is_pattern(&word.text) { glob::expand(&path, self.files) } else { vec![path] };
        if paths.is_empty() {
            self.notes.not_needed(&directive, "no file has such a name here");
            return;
        }
        let mut read = false;
        for path in paths {
            self.opened += 1;
            if depth + 1 >= DEEP || self.opened > FILES || self.bytes > BYTES {
                let issue = word.at.issue("too many files are included");
                self.notes.issue(issue.help("does a file include itself?"));
                return;
            }
            match (self.files.read)(&path) {
                Ok(text) => {
                    read = true;
                    done.extend(self.file(&path, &text, depth + 1));
                }
                Err(error) => self.notes.cannot(&directive, format!("{} cannot be read: {error}", path.display())),
            }
        }
        self.notes.carried += usize::from(read);
    }

    /// Finds the `;` that was forgotten at the end of a line: the next line begins with a directive's name.
    fn forgotten(&mut self, directive: &Directive) {
        let mut last = &directive.name;
        for word in &directive.args {
            if word.leads && begins(&word.text) && rules::find(&directive.name.text).is_some() {
                let issue = last.at.issue("a `;` is missing after this");
                self.notes.issue(issue.help(format!("`{}` begins another directive", word.text)));
                return;
            }
            last = word;
        }
    }
}

impl Open {
    fn take(&mut self, file: &str) -> Option<Directive> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let name = words.next()?;
        Some(Directive { name, args: words.collect(), block: None, file: file.to_owned() })
    }
}

/// Whether a word at the beginning of a line can hardly be anything but a directive's name.
fn begins(word: &str) -> bool {
    let short = ["server", "listen", "location", "upstream", "include", "return", "root"].contains(&word);
    short || (word.contains('_') && rules::find(word).is_some())
}

fn slip(span: std::ops::Range<usize>, message: &str, help: &'static str) -> Slip {
    Slip { span, message: message.to_owned(), help }
}
