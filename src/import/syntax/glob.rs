//! File name patterns in `include`: `*`, `?` and `[a-z]`, in any part of the path.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::import::file_access::FileAccess;

/// Returns whether a path is a pattern.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Returns the files that match a pattern, sorted; empty if none.
///
/// *Errors*: a folder cannot be listed.
pub(super) fn expand_pattern(pattern: &Path, files: &FileAccess<'_>) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        let is_pattern = matches!(part, Component::Normal(_)) && is_pattern(&text);
        let mut next = Vec::new();
        for folder in found {
            if !is_pattern {
                next.push(folder.join(part));
                continue;
            }
            let mut names = match (files.list)(&folder) {
                Ok(names) => names,
                // A file next to the folders that match.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
                Err(error) => return Err(error),
            };
            names.retain(|name| matches_pattern(name, &text));
            names.sort();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        found = next;
    }
    Ok(found)
}

/// Returns whether a name matches a pattern; `*` and `?` match no leading dot, as in a shell. O(name × pattern).
fn matches_pattern(name: &str, pattern: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    let (mut name_pos, mut pattern_pos) = (0, 0);
    // The positions at the last `*`, from which the match is tried again.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(name_pos) {
        if let Some(width) = pattern.get(pattern_pos..).and_then(|rest| match_char(*c, rest)) {
            (name_pos, pattern_pos) = (name_pos + 1, pattern_pos + width);
        } else if pattern.get(pattern_pos) == Some(&'*') {
            star = Some((name_pos, pattern_pos));
            pattern_pos += 1;
        } else if let Some((name_start, star_pos)) = star {
            star = Some((name_start + 1, star_pos));
            (name_pos, pattern_pos) = (name_start + 1, star_pos + 1);
        } else {
            return false;
        }
    }
    pattern.iter().skip(pattern_pos).all(|c| *c == '*')
}

/// Returns the length of the pattern's first element if it matches `c`; `None` for `*`.
fn match_char(c: char, pattern: &[char]) -> Option<usize> {
    match pattern {
        ['*', ..] | [] => None,
        ['?', ..] => Some(1),
        ['[', set @ ..] => {
            let (set, is_negated) = match set {
                ['!' | '^', rest @ ..] => (rest, true),
                rest => (rest, false),
            };
            let Some(end) = set.iter().skip(1).position(|c| *c == ']').map(|end| end + 1) else {
                return (c == '[').then_some(1);
            };
            let set = set.get(..end).unwrap_or_default();
            let mut is_member = false;
            let mut rest = set;
            while let [first, after @ ..] = rest {
                if let ['-', last, after @ ..] = after {
                    is_member |= (*first..=*last).contains(&c);
                    rest = after;
                } else {
                    is_member |= *first == c;
                    rest = after;
                }
            }
            (is_member != is_negated).then_some(end + 2 + usize::from(is_negated))
        }
        [literal, ..] => (*literal == c).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        for (name, pattern, expected) in [
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
            assert_eq!(matches_pattern(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn pattern_may_be_in_any_part_of_the_path() {
        let list = |folder: &Path| {
            Ok(match folder.to_str() {
                Some("/e") => vec!["b.d".to_owned(), "a.d".to_owned(), "c".to_owned()],
                Some("/e/a.d" | "/e/b.d") => vec!["x.conf".to_owned()],
                _ => return Err(std::io::ErrorKind::NotFound.into()),
            })
        };
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let files = FileAccess { read: &read, list: &list };
        let found = expand_pattern(Path::new("/e/*.d/*.conf"), &files).unwrap();
        assert_eq!(found, [PathBuf::from("/e/a.d/x.conf"), PathBuf::from("/e/b.d/x.conf")]);
        assert!(expand_pattern(Path::new("/e/none*"), &files).unwrap().is_empty());
        assert!(expand_pattern(Path::new("/none/*"), &files).is_err());
    }
}
