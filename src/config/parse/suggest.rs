//! Did you mean ...?

/// Finds the word that `typed` was most likely meant to be; the first of equals.
///
/// Case and `-` for `_` do not count; otherwise one slip in three letters is forgiven. O(length²) per word.
pub(crate) fn closest_match<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.to_lowercase().replace('-', "_").chars().take(65).collect();
    if typed.len() > 64 {
        return None;
    }
    let most = (typed.len() / 3).max(1);
    let slips = |word: &'a str| {
        let known: Vec<char> = word.to_lowercase().chars().collect();
        // Each letter more or less is a slip.
        let near = known.len().abs_diff(typed.len()) <= most;
        near.then(|| (edit_distance(&typed, &known), word)).filter(|(d, _)| *d <= most)
    };
    known.into_iter().filter_map(slips).min_by_key(|(d, _)| *d).map(|(_, word)| word)
}

/// The help for a word that is none of `known`: the likely one, and all of them.
pub(crate) fn suggestion(typed: &str, what: &str, known: &[&str]) -> String {
    let all = format!("{what}: {}", known.join(", "));
    match closest_match(typed, known.iter().copied()) {
        Some(word) if word != typed => format!("did you mean `{word}`? {all}"),
        _ => all,
    }
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_forgiven_and_other_words_are_not() {
        let known = ["weight", "max_fails", "max_conns", "backup"];
        for (typed, wanted) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("max-conn", Some("max_conns")),
            ("max_fail", Some("max_fails")),
            ("resolve", None),
            ("", None),
        ] {
            assert_eq!(closest_match(typed, known), wanted, "{typed}");
        }
        assert_eq!(closest_match(&"x".repeat(1_000_000), known), None);
    }

    #[test]
    fn suggestions_always_list_what_is_valid() {
        assert_eq!(suggestion("tetx", "formats", &["text", "json"]), "did you mean `text`? formats: text, json");
        assert_eq!(suggestion("xml", "formats", &["text", "json"]), "formats: text, json");
    }
}
