//! The directives of an nginx configuration with their places, read without any knowledge of nginx's rules.

/// A directive as it is written.
#[derive(Clone, Debug)]
pub(crate) struct ConfDirective {
    pub(crate) name: String,
    /// Without their quotes.
    pub(crate) args: Vec<String>,
    /// Counted from 1.
    pub(crate) line: usize,
    /// The bytes from the name to the `;`, or to the `}` of its block.
    pub(crate) span: std::ops::Range<usize>,
    /// The names of the blocks around it, outermost first.
    pub(crate) blocks: Vec<String>,
}

struct WordReader<'a> {
    text: &'a str,
    at: usize,
}

/// A piece of the text: a word, or one of `{`, `}` and `;`.
enum ConfPiece {
    Word(String),
    Mark(u8),
}

impl ConfDirective {
    /// Returns its words, joined by spaces.
    pub(crate) fn words(&self) -> String {
        std::iter::once(&self.name).chain(&self.args).map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// Returns all directives in the order of the text; a block comes before what is in it.
pub(crate) fn read_directives(text: &str) -> Vec<ConfDirective> {
    let mut reader = WordReader { text, at: 0 };
    let mut found: Vec<ConfDirective> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut start = 0;
    while let Some((begin, piece)) = reader.next_piece() {
        match piece {
            ConfPiece::Word(word) => {
                if words.is_empty() {
                    start = begin;
                }
                words.push(word);
            }
            ConfPiece::Mark(b'}') => {
                if let Some(block) = open.pop() {
                    found[block].span.end = reader.at;
                }
            }
            ConfPiece::Mark(mark) => {
                let mut taken = std::mem::take(&mut words).into_iter();
                let name = taken.next().unwrap_or_default();
                let has_block = mark == b'{';
                found.push(ConfDirective {
                    // What is in such a block is no configuration.
                    args: taken.collect(),
                    line: text[..start].matches('\n').count() + 1,
                    span: start..reader.at,
                    blocks: open.iter().map(|at| found[*at].name.clone()).collect(),
                    name: name.clone(),
                });
                if has_block && name.ends_with("_by_lua_block") {
                    reader.skip_block();
                    if let Some(last) = found.last_mut() {
                        last.span.end = reader.at;
                    }
                } else if has_block {
                    open.push(found.len() - 1);
                }
            }
        }
    }
    found
}

impl WordReader<'_> {
    fn next_piece(&mut self) -> Option<(usize, ConfPiece)> {
        let bytes = self.text.as_bytes();
        loop {
            match *bytes.get(self.at)? {
                b'#' => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
                byte if byte.is_ascii_whitespace() => self.at += 1,
                byte @ (b'{' | b'}' | b';') => {
                    self.at += 1;
                    return Some((self.at - 1, ConfPiece::Mark(byte)));
                }
                byte @ (b'"' | b'\'') => {
                    let begin = self.at;
                    return Some((begin, ConfPiece::Word(self.read_quoted(byte))));
                }
                _ => {
                    let begin = self.at;
                    return Some((begin, ConfPiece::Word(self.read_bare())));
                }
            }
        }
    }

    fn read_quoted(&mut self, quote: u8) -> String {
        let bytes = self.text.as_bytes();
        let mut word = Vec::new();
        self.at += 1;
        while self.at < bytes.len() && bytes[self.at] != quote {
            if bytes[self.at] == b'\\' && bytes.get(self.at + 1).is_some_and(|next| [b'\\', quote].contains(next)) {
                self.at += 1;
            }
            word.push(bytes[self.at]);
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(word).unwrap()
    }

    fn read_bare(&mut self) -> String {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        while self.at < bytes.len() && !bytes[self.at].is_ascii_whitespace() && bytes[self.at] != b';' {
            match bytes[self.at] {
                b'\\' => self.at += 2,
                // `${name}` is a part of the word, any other brace ends it.
                b'$' if bytes.get(self.at + 1) == Some(&b'{') => {
                    self.at += self.text[self.at..].find('}').map_or(1, |length| length + 1);
                }
                b'{' => break,
                _ => self.at += 1,
            }
        }
        self.text[begin..self.at.min(bytes.len())].to_owned()
    }

    fn skip_block(&mut self) {
        let mut depth = 1;
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() && depth > 0 {
            depth += match bytes[self.at] {
                b'{' => 1,
                b'}' => -1,
                _ => 0,
            };
            self.at += 1;
        }
    }
}

#[test]
fn directives_have_their_words_lines_and_spans() {
    let text = "# a;\nhttp {\n  log_format a '$x; \"{\"' ;\n  server { location ~ ^/a\\;{ return 403 \"no}\"; } }\n}\n";
    let found = read_directives(text);
    let names: Vec<(&str, usize, usize)> =
        found.iter().map(|one| (one.name.as_str(), one.line, one.blocks.len())).collect();
    assert_eq!(names, [("http", 2, 0), ("log_format", 3, 1), ("server", 4, 1), ("location", 4, 2), ("return", 4, 3)]);
    assert_eq!(found[1].args, ["a", "$x; \"{\""]);
    assert_eq!(&text[found[4].span.clone()], "return 403 \"no}\";");
    assert!(text[found[2].span.clone()].ends_with("} }"));
}
