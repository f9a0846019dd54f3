//! nginx's words: what stands between white space, quotes, `;`, `{`, `}` and comments.
//!
//! Source: nginx `ngx_conf_file.c`, `ngx_conf_read_token`.

use std::ops::Range;

/// One word or mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it is written, quotes included.
    pub(super) span: Range<usize>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether nothing but white space stands before it in its line.
    pub(super) leads: bool,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word, quotes taken off and escapes resolved.
    Word(String),
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    End,
}

/// What cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slip {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Reads one token after the other.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    leads: bool,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1, leads: true }
    }

    /// The next token; `None` at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Slip> {
        self.skip();
        let (start, line, leads) = (self.at, self.line, self.leads);
        let Some(first) = self.peek() else { return Ok(None) };
        self.leads = false;
        let kind = match first {
            b';' => self.mark(Kind::End),
            b'{' => self.mark(Kind::Open),
            b'}' => self.mark(Kind::Close),
            quote @ (b'"' | b'\'') => self.quoted(quote)?,
            _ => self.bare(),
        };
        Ok(Some(Token { kind, span: start..self.at, line, leads }))
    }

    /// Goes on behind the `}` that closes a block of another language; strings and comments in it are not understood.
    ///
    /// *Errors*: the block has no end.
    pub(super) fn skip_block(&mut self) -> Result<(), Slip> {
        let start = self.at;
        let mut depth = 1usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            self.step();
            if depth == 0 {
                return Ok(());
            }
        }
        Err(slip(start.saturating_sub(1)..start, "this block is not closed", "add the missing `}`"))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn step(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
            self.leads = true;
        }
        self.at += 1;
    }

    fn mark(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    /// White space, comments, and the mark that some editors put in front of a file.
    fn skip(&mut self) {
        if self.at == 0 && self.text.starts_with('\u{feff}') {
            self.at = '\u{feff}'.len_utf8();
        }
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.step(),
                b'#' => {
                    let rest = self.text.get(self.at..).unwrap_or_default();
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Kind, Slip> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            if byte == quote {
                let inner = self.text.get(start + 1..self.at).unwrap_or_default();
                self.at += 1;
                return match self.peek() {
                    None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => Ok(Kind::Word(plain(inner))),
                    Some(_) => Err(slip(
                        start..self.at,
                        "a space or `;` is missing after this quote",
                        "a quote inside a word is written `\\\"`",
                    )),
                };
            }
            if byte == b'\\' {
                self.step();
            }
            self.step();
        }
        let first = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        Err(slip(start..start + first.len(), "this quote is not closed", "add the missing quote"))
    }

    fn bare(&mut self) -> Kind {
        let start = self.at;
        let mut before = 0u8;
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                // `${name}` is one word.
                b'{' if before != b'$' => break,
                b'\\' => self.step(),
                _ => {}
            }
            before = byte;
            self.step();
        }
        self.at = self.at.min(self.text.len());
        Kind::Word(plain(self.text.get(start..self.at).unwrap_or_default()))
    }
}

fn slip(span: Range<usize>, message: &str, help: &'static str) -> Slip {
    Slip { span, message: message.to_owned(), help }
}

/// Resolves escapes; a backslash before anything else stays, as regular expressions need it.
fn plain(written: &str) -> String {
    let mut text = String::with_capacity(written.len());
    let mut chars = written.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = match chars.peek() {
            Some('"' | '\'' | '\\') if c == '\\' => chars.next(),
            Some('t') if c == '\\' => chars.next().map(|_| '\t'),
            Some('r') if c == '\\' => chars.next().map(|_| '\r'),
            Some('n') if c == '\\' => chars.next().map(|_| '\n'),
            _ => None,
        };
        text.push(escaped.unwrap_or(c));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let mut all = Vec::new();
        while let Some(token) = lexer.next().unwrap() {
            all.push(match token.kind {
                Kind::Word(word) => word,
                Kind::Open => "<{>".to_owned(),
                Kind::Close => "<}>".to_owned(),
                Kind::End => "<;>".to_owned(),
            });
        }
        all
    }

    #[test]
    fn words_end_where_nginx_ends_them() {
        for (text, wanted) in [
            ("a b;c{}", vec!["a", "b", "<;>", "c", "<{>", "<}>"]),
            ("a#b; # c;\nd", vec!["a#b", "<;>", "d"]),
            ("'a b' \"c;d\";", vec!["a b", "c;d", "<;>"]),
            ("a'b' c\"d;", vec!["a'b'", "c\"d", "<;>"]),
            ("\"a\\\"b\" 'c\\'d' e\\ f \\.js$;", vec!["a\"b", "c'd", "e\\ f", "\\.js$", "<;>"]),
            ("${a}b ${c};", vec!["${a}b", "${c}", "<;>"]),
            ("a}b;", vec!["a}b", "<;>"]),
            ("\u{feff}a;", vec!["a", "<;>"]),
            ("\"\" é;", vec!["", "é", "<;>"]),
        ] {
            assert_eq!(words(text), wanted, "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_quotes_and_comments() {
        let mut lexer = Lexer::new("a 'x\ny' # c\n\n  b;");
        let mut lines = Vec::new();
        while let Some(token) = lexer.next().unwrap() {
            lines.push((token.line, token.leads));
        }
        assert_eq!(lines, [(1, true), (1, false), (4, true), (4, false)]);
    }

    #[test]
    fn open_quotes_and_words_glued_to_quotes_are_slips() {
        for text in ["a \"b;\nc", "'", "'a\\'", "'a'b;"] {
            let mut lexer = Lexer::new(text);
            assert!(std::iter::repeat_with(|| lexer.next()).take(8).any(|token| token.is_err()), "{text}");
        }
    }
}
