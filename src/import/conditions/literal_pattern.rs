//! Regular expressions that match a few texts only.

/// The maximum number of texts of a pattern.
const MAX_TEXTS: usize = 256;

/// Returns the texts that a pattern such as `^Bearer (a|b)$` matches; `None` if they cannot be listed.
///
/// Groups with alternatives may be nested. Anything else that is special in a pattern makes it unlistable.
pub(super) fn list_texts(pattern: &str) -> Option<Vec<String>> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    let mut parser = PatternParser { rest: inner.chars().peekable(), depth: 0 };
    let texts = parser.parse_sequence()?;
    parser.rest.peek().is_none().then_some(texts)
}

struct PatternParser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
}

impl PatternParser<'_> {
    /// Parses characters and groups, up to the end or to a `|` or `)` of a group.
    fn parse_sequence(&mut self) -> Option<Vec<String>> {
        let mut texts = vec![String::new()];
        while let Some(c) = self.rest.peek().copied() {
            let parts = match c {
                '|' | ')' if self.depth > 0 => break,
                '(' => self.parse_group()?,
                _ => vec![self.parse_character()?.to_string()],
            };
            if self.rest.peek().is_some_and(|next| "*+?{".contains(*next)) || texts.len() * parts.len() > MAX_TEXTS {
                return None;
            }
            texts = texts.iter().flat_map(|text| parts.iter().map(move |part| format!("{text}{part}"))).collect();
        }
        Some(texts)
    }

    /// Parses `(a|b)` or `(?:a|b)`.
    fn parse_group(&mut self) -> Option<Vec<String>> {
        const MAX_DEPTH: usize = 8;
        self.rest.next_if_eq(&'(')?;
        if self.rest.next_if_eq(&'?').is_some() {
            self.rest.next_if_eq(&':')?;
        }
        self.depth += 1;
        let mut texts = Vec::new();
        loop {
            if self.depth > MAX_DEPTH || texts.len() > MAX_TEXTS {
                return None;
            }
            texts.extend(self.parse_sequence()?);
            match self.rest.next()? {
                '|' => {}
                ')' => break,
                _ => return None,
            }
        }
        self.depth -= 1;
        Some(texts)
    }

    fn parse_character(&mut self) -> Option<char> {
        match self.rest.next()? {
            '\\' => self.rest.next().filter(|c| c.is_ascii_punctuation() || *c == ' '),
            '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' => None,
            c => Some(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_of_alternatives_lists_its_texts() {
        for (pattern, texts) in [
            ("^Bearer a$", vec!["Bearer a"]),
            ("^Bearer (a|b-1)$", vec!["Bearer a", "Bearer b-1"]),
            ("^(?:Bearer a|Bearer b)$", vec!["Bearer a", "Bearer b"]),
            ("^x(a(1|2)|b)\\.y$", vec!["xa1.y", "xa2.y", "xb.y"]),
            ("^$", vec![""]),
            ("^(|Bearer )a$", vec!["a", "Bearer a"]),
        ] {
            assert_eq!(list_texts(pattern).unwrap(), texts, "{pattern}");
        }
    }

    #[test]
    fn other_patterns_are_not_listed() {
        for pattern in [
            "Bearer a",
            "^Bearer a",
            "^a.c$",
            "^a+$",
            "^(a|b)?$",
            "^a|b$",
            "^(a$",
            "^a)$",
            "^[ab]$",
            "^\\d$",
            "^(?i)a$",
            "^(?P<k>a)$",
            "^a$b$",
            "^\\",
            "^a{2}$",
            "",
        ] {
            assert!(list_texts(pattern).is_none(), "{pattern}");
        }
        let many = format!("^{}$", "(a|b)".repeat(20));
        assert!(list_texts(&many).is_none() && list_texts(&"(".repeat(10_000)).is_none());
        assert!(list_texts(&format!("^{}$", "(".repeat(100_000))).is_none());
    }
}
