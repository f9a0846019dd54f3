//! The tokens of nginx's configuration: words, `;`, `{` and `}`.
//!
//! Source: nginx `ngx_conf_file.c`, `ngx_conf_read_token`.

use std::ops::Range;

/// A word or a punctuation mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigToken {
    pub(super) kind: TokenKind,
    /// The byte range in the text, quotes included.
    pub(super) span: Range<usize>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether only white space precedes it in its line.
    pub(super) starts_line: bool,
}

/// The kind of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A word without quotes, escapes resolved.
    Word(String),
    /// `{`
    OpenBrace,
    /// `}`
    CloseBrace,
    /// `;`
    Semicolon,
}

/// An error in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Splits a text into tokens.
pub(super) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    line: usize,
    at_line_start: bool,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, offset: 0, line: 1, at_line_start: true }
    }

    /// Returns the next token; `None` at the end of the text.
    ///
    /// *Errors*: a quote is not closed, or a word follows it without a space.
    pub(super) fn next_token(&mut self) -> Result<Option<ConfigToken>, SyntaxError> {
        self.skip_trivia();
        let (start, line, starts_line) = (self.offset, self.line, self.at_line_start);
        let Some(first) = self.peek() else { return Ok(None) };
        self.at_line_start = false;
        let kind = match first {
            b';' => self.lex_punctuation(TokenKind::Semicolon),
            b'{' => self.lex_punctuation(TokenKind::OpenBrace),
            b'}' => self.lex_punctuation(TokenKind::CloseBrace),
            quote @ (b'"' | b'\'') => self.lex_quoted(quote)?,
            _ => self.lex_bare(),
        };
        Ok(Some(ConfigToken { kind, span: start..self.offset, line, starts_line }))
    }

    /// Skips a block of another language up to its `}`; strings and comments in it are not recognised.
    ///
    /// *Errors*: the block is not closed.
    pub(super) fn skip_block(&mut self) -> Result<(), SyntaxError> {
        let start = self.offset;
        let mut depth = 1usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            self.advance();
            if depth == 0 {
                return Ok(());
            }
        }
        Err(syntax_error(start.saturating_sub(1)..start, "this block is not closed", "add the missing `}`"))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn advance(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line += 1;
            self.at_line_start = true;
        }
        self.offset += 1;
    }

    fn lex_punctuation(&mut self, kind: TokenKind) -> TokenKind {
        self.offset += 1;
        kind
    }

    /// Skips white space, comments, and a byte order mark at the start.
    fn skip_trivia(&mut self) {
        if self.offset == 0 && self.text.starts_with('\u{feff}') {
            self.offset = '\u{feff}'.len_utf8();
        }
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.advance(),
                b'#' => {
                    let rest = self.text.get(self.offset..).unwrap_or_default();
                    self.offset += rest.find('\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn lex_quoted(&mut self, quote: u8) -> Result<TokenKind, SyntaxError> {
        let start = self.offset;
        self.offset += 1;
        while let Some(byte) = self.peek() {
            if byte == quote {
                let inner = self.text.get(start + 1..self.offset).unwrap_or_default();
                self.offset += 1;
                return match self.peek() {
                    None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => {
                        Ok(TokenKind::Word(unescape(inner)))
                    }
                    Some(_) => Err(syntax_error(
                        start..self.offset,
                        "a space or `;` is missing after this quote",
                        "a quote inside a word is written `\\\"`",
                    )),
                };
            }
            if byte == b'\\' {
                self.advance();
            }
            self.advance();
        }
        let first = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        Err(syntax_error(start..start + first.len(), "this quote is not closed", "add the missing quote"))
    }

    fn lex_bare(&mut self) -> TokenKind {
        let start = self.offset;
        let mut before = 0u8;
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                // `${name}` is one word.
                b'{' if before != b'$' => break,
                b'\\' => self.advance(),
                _ => {}
            }
            before = byte;
            self.advance();
        }
        self.offset = self.offset.min(self.text.len());
        TokenKind::Word(unescape(self.text.get(start..self.offset).unwrap_or_default()))
    }
}

fn syntax_error(span: Range<usize>, message: &str, help: &'static str) -> SyntaxError {
    SyntaxError { span, message: message.to_owned(), help }
}

/// Resolves escapes. A backslash before any other character stays, for regular expressions.
fn unescape(written: &str) -> String {
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

    fn lex_all(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token().unwrap() {
            tokens.push(match token.kind {
                TokenKind::Word(word) => word,
                TokenKind::OpenBrace => "<{>".to_owned(),
                TokenKind::CloseBrace => "<}>".to_owned(),
                TokenKind::Semicolon => "<;>".to_owned(),
            });
        }
        tokens
    }

    #[test]
    fn words_end_where_nginx_ends_them() {
        for (text, expected) in [
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
            assert_eq!(lex_all(text), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_quotes_and_comments() {
        let mut lexer = Lexer::new("a 'x\ny' # c\n\n  b;");
        let mut lines = Vec::new();
        while let Some(token) = lexer.next_token().unwrap() {
            lines.push((token.line, token.starts_line));
        }
        assert_eq!(lines, [(1, true), (1, false), (4, true), (4, false)]);
    }

    #[test]
    fn open_quotes_and_words_after_quotes_are_errors() {
        for text in ["a \"b;\nc", "'", "'a\\'", "'a'b;"] {
            let mut lexer = Lexer::new(text);
            assert!(std::iter::repeat_with(|| lexer.next_token()).take(8).any(|token| token.is_err()), "{text}");
        }
    }
}
