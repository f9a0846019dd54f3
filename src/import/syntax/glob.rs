//! Patterns of file names in `include`: `*`, `?` and `[a-z]`, in any part of the path.

use std::path::{Component, Path, PathBuf};

use crate::import::FileAccess;

/// Whether a path is a pattern.
pub(in crate::import) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files that a pattern names, sorted; empty if none.
pub(in crate::import) fn expand_pattern(pattern: &Path, files: &FileAccess<'_>) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        found = match part {
            Component::Normal(_) if is_pattern(&text) => found
                .iter()
                .flat_map(|folder| {
                    let mut names = (files.list)(folder).unwrap_or_default();
                    names.retain(|name| matches_pattern(name, &text));
                    names.sort();
                    names.into_iter().map(|name| folder.join(name))
                })
                .collect(),
            part => found.into_iter().map(|folder| folder.join(part)).collect(),
        };
    }
    found
}

/// Whether a name fits a pattern; names that begin with a dot are hidden, as in a shell. O(name × pattern).
fn matches_pattern(name: &str, pattern: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    let (mut at, mut by) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(at) {
        if let Some(width) = pattern.get(by..).and_then(|rest| match_char(*c, rest)) {
            (at, by) = (at + 1, by + width);
        } else if pattern.get(by) == Some(&'*') {
            star = Some((at, by));
            by += 1;
        } else if let Some((from, of)) = star {
            star = Some((from + 1, of));
            (at, by) = (from + 1, of + 1);
        } else {
            return false;
        }
    }
    pattern.iter().skip(by).all(|c| *c == '*')
}

/// How much of the pattern takes the character `c`, if it does; a `*` is not looked at.
fn match_char(c: char, pattern: &[char]) -> Option<usize> {
    match pattern {
        ['*', ..] | [] => None,
        ['?', ..] => Some(1),
        ['[', set @ ..] => {
            let (set, not) = match set {
                ['!' | '^', rest @ ..] => (rest, true),
                rest => (rest, false),
            };
            let Some(end) = set.iter().skip(1).position(|c| *c == ']').map(|end| end + 1) else {
                return (c == '[').then_some(1);
            };
            let set = set.get(..end).unwrap_or_default();
            let mut within = false;
            let mut rest = set;
            while let [first, after @ ..] = rest {
                if let ['-', last, after @ ..] = after {
                    within |= (*first..=*last).contains(&c);
                    rest = after;
                } else {
                    within |= *first == c;
                    rest = after;
                }
            }
            (within != not).then_some(end + 2 + usize::from(not))
        }
        [literal, ..] => (*literal == c).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_in_a_shell() {
        for (name, pattern, wanted) in [
            ("a.conf", "*.conf", true),
            ("a.conf.bak", "*.conf", false),
            ("a.b.conf", "*.conf", true),
            (".a.conf", "*.conf", false),
            ("10-a", "[0-9]?-*", true),
            ("1x-a", "[0-9][!x]-*", false),
            ("ab", "a[^x]", true),
            ("[", "[", true),
            ("x", "", false),
            ("", "*", true),
            (&"a".repeat(5_000), &"a*".repeat(50), true),
        ] {
            assert_eq!(matches_pattern(name, pattern), wanted, "{name} {pattern}");
        }
    }

    #[test]
    fn patterns_may_be_in_any_part() {
        let list = |folder: &Path| {
            Ok(match folder.to_str() {
                Some("/e") => vec!["b.d".to_owned(), "a.d".to_owned(), "c".to_owned()],
                Some("/e/a.d" | "/e/b.d") => vec!["x.conf".to_owned()],
                _ => return Err(std::io::ErrorKind::NotFound.into()),
            })
        };
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let files = FileAccess { read: &read, list: &list };
        let found = expand_pattern(Path::new("/e/*.d/*.conf"), &files);
        assert_eq!(found, [PathBuf::from("/e/a.d/x.conf"), PathBuf::from("/e/b.d/x.conf")]);
        assert!(expand_pattern(Path::new("/none/*"), &files).is_empty());
    }
}
