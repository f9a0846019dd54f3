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

/// Returns a regular expression that matches the paths which begin with `prefix` and match `pattern`; `None` if it is not
/// plain to see.
pub(super) fn anchor_below(prefix: &str, pattern: &str, ignores_case: bool) -> Option<String> {
    let is_simple = !has_alternatives(pattern) && difference(pattern).is_none();
    let escaped = escape(prefix)?;
    let flag = if ignores_case { "(?i)" } else { "" };
    if let Some(anchored) = pattern.strip_prefix('^').filter(|_| is_simple) {
        let rest = literal_rest(anchored, prefix, ignores_case)?;
        return Some(format!("^{escaped}{flag}{rest}"));
    }
    // No match may begin within the prefix.
    let first = pattern.strip_prefix('\\').unwrap_or(pattern).chars().next()?;
    let is_literal = pattern.starts_with('\\') && first.is_ascii_punctuation() || is_plain(first);
    let is_repeated = pattern
        .chars()
        .nth(pattern.len() - pattern.trim_start_matches('\\').len() + 1)
        .is_some_and(|c| "*?{".contains(c));
    let in_prefix = prefix.chars().any(|c| c.eq_ignore_ascii_case(&first));
    (is_simple && is_literal && !is_repeated && !in_prefix).then(|| format!("^{escaped}(?s:.*){flag}{pattern}"))
}

/// Returns the rest of a pattern that begins with the literal text `prefix`.
fn literal_rest<'a>(pattern: &'a str, prefix: &str, ignores_case: bool) -> Option<&'a str> {
    let mut rest = pattern;
    for wanted in prefix.chars() {
        let escaped = rest.strip_prefix('\\').filter(|after| after.starts_with(|c: char| c.is_ascii_punctuation()));
        let literal = escaped.unwrap_or(rest);
        let found = literal.chars().next().filter(|c| escaped.is_some() || is_plain(*c))?;
        let is_same = if ignores_case { found.eq_ignore_ascii_case(&wanted) } else { found == wanted };
        rest = is_same.then(|| literal.get(found.len_utf8()..))??;
    }
    // A repetition would hold for the last character.
    (!rest.starts_with(['*', '?', '+', '{'])).then_some(rest)
}

/// Returns whether a character stands for itself in a regular expression.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-_~%,;=&@!' \"".contains(c)
}

fn escape(text: &str) -> Option<String> {
    let escape_char = |c: char| match c {
        c if is_plain(c) => Some(c.to_string()),
        c => c.is_ascii_punctuation().then(|| format!("\\{c}")),
    };
    text.chars().map(escape_char).collect()
}

/// Returns whether a pattern has alternatives outside groups.
fn has_alternatives(pattern: &str) -> bool {
    let (mut depth, mut in_class) = (0_usize, false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{anchor_below, difference};

    #[test]
    fn nested_pattern_gets_the_prefix_around_it() {
        for (prefix, pattern, ignores_case, expected) in [
            ("/api/", "\\.txt$", false, Some("^/api/(?s:.*)\\.txt$")),
            ("/api/", "\\.(js|css)$", true, Some("^/api/(?s:.*)(?i)\\.(js|css)$")),
            ("/a.b/", "^/a\\.b/x$", false, Some("^/a\\.b/x$")),
            ("/api/", "^/API/v[12]", true, Some("^/api/(?i)v[12]")),
            ("/api/", "^/API/v[12]", false, None),
            ("/api/", "^/api/?x", false, None),
            ("/api/", "^/other/", false, None),
            ("/api/", "^/a.i/", false, None),
            ("/api/", "pi/x", false, None),
            ("/api/", "x*y", false, None),
            ("/api/", "\\.a$|\\.b$", false, None),
            ("/api/", "^/api/a|b", false, None),
            ("/api/", ".", false, None),
        ] {
            assert_eq!(anchor_below(prefix, pattern, ignores_case).as_deref(), expected, "{prefix} {pattern}");
        }
    }

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
