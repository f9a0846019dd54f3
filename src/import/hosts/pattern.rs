//! The regular expressions of locations: nginx's are PCRE's, the router's are those of the crate `regex`.
//!
//! Some mean something else there. A location may keep requests from replicas, so such a pattern stops the import.

/// Returns how a pattern differs in the router from nginx; `None` if it has the same meaning.
pub(super) fn difference(pattern: &str) -> Option<&'static str> {
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    let mut after_repetition = false;
    while let Some(c) = chars.next() {
        let was_repetition = std::mem::take(&mut after_repetition);
        let was_class_start = std::mem::take(&mut class_start);
        match c {
            '\\' => match chars.next() {
                Some(escaped) if is_same_escape(escaped, in_class) => {
                    // `\b{start}` is one assertion in the crate.
                    if matches!(escaped, 'b' | 'B') && chars.peek() == Some(&'{') {
                        return Some("`\\b{` is another assertion");
                    }
                }
                _ => return Some("this escape is not supported, or means something else"),
            },
            // A `^` at the beginning of a class is not its first character.
            '^' if was_class_start => class_start = true,
            ']' if in_class && !was_class_start => in_class = false,
            '[' if in_class && chars.peek() != Some(&':') => return Some("`[` inside a class begins another class"),
            '&' | '-' | '~' if in_class && chars.peek() == Some(&c) => {
                return Some("`&&`, `--` and `~~` in a class are operators");
            }
            // A class such as `[:alpha:]` ends with `:]`.
            '[' if in_class => {
                while let Some(c) = chars.next() {
                    if c == ':' && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                }
            }
            _ if in_class => {}
            '[' => (in_class, class_start) = (true, true),
            '(' if chars.peek() == Some(&'?') => {
                let rest: String = chars.clone().skip(1).take(4).collect();
                let is_name = rest
                    .strip_prefix('P')
                    .unwrap_or(&rest)
                    .strip_prefix('<')
                    .is_some_and(|name| !name.starts_with(['=', '!']));
                if !(rest.starts_with(':') || rest.starts_with("i)") || is_name) {
                    return Some("this kind of group is not supported, or means something else");
                }
                // The `?` of a group repeats nothing.
                chars.next();
            }
            '(' if chars.peek() == Some(&'*') => return Some("a verb of PCRE is not supported"),
            '+' if was_repetition => return Some("possessive repetitions are not supported"),
            '*' | '+' | '?' | '}' => after_repetition = !(was_repetition && c == '?'),
            _ => {}
        }
    }
    (!pattern.is_ascii()).then_some("characters outside ASCII are compared as bytes in nginx")
}

/// Returns whether an escape means the same in both languages.
fn is_same_escape(escaped: char, in_class: bool) -> bool {
    match escaped {
        '<' | '>' => false,
        'b' | 'B' | 'A' | 'z' => !in_class,
        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'n' | 'r' | 't' | 'f' | 'a' => true,
        escaped => escaped.is_ascii_punctuation(),
    }
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn pattern_with_the_same_meaning_is_carried() {
        for pattern in [
            "^/v[12]/",
            "\\.php$",
            "^/v1/(chat/completions|completions)$",
            "^/(?<rest>.*)$",
            "(?i)^/a+?b{2,3}c*?$",
            "^/[a-z0-9_-]+/[^/]+$",
            "[[:alpha:]x]",
            "[]a]",
            "[^]a]",
            "^/a\\/b\\-c\\d\\w\\b",
            "",
        ] {
            assert_eq!(difference(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn pattern_with_another_meaning_is_refused() {
        for pattern in [
            "^/(?!admin)",
            "^/(?=a)",
            "(?<!a)b",
            "(?<=a)b",
            "(?>a)b",
            "a++b",
            "a*+",
            "a{2}+",
            "\\Qa.b\\E",
            "\\p{L}",
            "(a)\\1",
            "\\<a\\>",
            "[a[b]",
            "[a&&b]",
            "[a--b]",
            "\\v",
            "\\b{start}",
            "(*UTF8)a",
            "(?x) a",
            "\u{e9}",
            "a\\",
        ] {
            assert!(difference(pattern).is_some(), "{pattern}");
        }
    }
}
