//! Suggestions for misspelled words: "did you mean ...?".

/// The longest word that is compared, in characters.
const MAX_TYPED_CHARS: usize = 64;
/// Keys that the help for an unknown key names.
const MAX_NEAREST_KEYS: usize = 3;

/// Returns the word of `known` that `typed` was most likely meant to be; the first of equals.
///
/// Case and `-` for `_` are ignored; one typing error in three letters is accepted. *Cost*: O(length²) per word.
/// *Source*: optimal string alignment, by `strsim`.
pub(crate) fn closest_match<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = normalize(typed)?;
    let length = typed.chars().count();
    let max = (length / 3).max(1);
    let distance = |word: &'a str| {
        let word_lower = word.to_lowercase();
        // The difference in length is a lower bound of the distance.
        let near = word_lower.chars().count().abs_diff(length) <= max;
        near.then(|| (strsim::osa_distance(&typed, &word_lower), word)).filter(|(distance, _)| *distance <= max)
    };
    known.into_iter().filter_map(distance).min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

/// Returns the help for a word that is not in `known`: the likely one, and all of them. `kind` is their plural.
pub(crate) fn suggestion(typed: &str, kind: &str, known: &[&str]) -> String {
    let all = format!("{kind}: {}", known.join(", "));
    match closest_match(typed, known.iter().copied()) {
        Some(word) if word != typed => format!("did you mean `{word}`? {all}"),
        _ => all,
    }
}

/// Returns the key of `known` that `typed` was most likely meant to be: one of which it is a misspelling, or else the only
/// one of whose words it is one, as `body` is of `body_bytes`.
pub(in crate::config) fn likely_key<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    closest_match(typed, known.iter().copied()).or_else(|| {
        let typed = normalize(typed)?;
        let mut having = known.iter().filter(|key| has_words(key, &typed));
        having.next().copied().filter(|_| having.next().is_none())
    })
}

/// Returns whether `words`, joined by `_`, are whole words of `key`, or one word in the singular.
fn has_words(key: &str, words: &str) -> bool {
    let key = format!("_{key}_");
    !words.is_empty() && (key.contains(&format!("_{words}_")) || key.contains(&format!("_{words}s_")))
}

/// Returns the help for a key that is not in `known`: the likely one, the nearest three, and where all are documented.
pub(in crate::config) fn key_suggestion(typed: &str, known: &[&str]) -> String {
    let likely = likely_key(typed, known).filter(|word| *word != typed);
    let question = likely.map(|word| format!("did you mean `{word}`? ")).unwrap_or_default();
    let mut nearest = nearest_words(typed, known);
    // The likely one is named first also if others have the word.
    if let Some(at) = nearest.iter().position(|key| likely == Some(key)) {
        nearest.swap(0, at);
    }
    let nearest = nearest.join(", ");
    format!("{question}nearest keys: {nearest}; see config/router.toml")
}

/// Returns the words of `known` that are most like `typed`, best first. Keys that have it as a word come first; words with
/// a common beginning count as alike.
fn nearest_words<'a>(typed: &str, known: &[&'a str]) -> Vec<&'a str> {
    let typed = normalize(typed).unwrap_or_default();
    let score = |word: &str| strsim::jaro_winkler(&typed, word) + if has_words(word, &typed) { 1.0 } else { 0.0 };
    let mut scored: Vec<(f64, &str)> = known.iter().map(|word| (score(word), *word)).collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.into_iter().map(|(_, word)| word).take(MAX_NEAREST_KEYS).collect()
}

/// Returns `typed` as it is compared; `None` if it is too long to be a misspelled word.
fn normalize(typed: &str) -> Option<String> {
    let typed: String = typed.to_lowercase().replace('-', "_").chars().take(MAX_TYPED_CHARS + 1).collect();
    (typed.chars().count() <= MAX_TYPED_CHARS).then_some(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["weight", "max_fails", "max_conns", "backup"];

    #[test]
    fn typing_errors_are_matched_and_other_words_are_not() {
        for (typed, wanted) in [
            ("wieght", Some("weight")),
            ("Weight", Some("weight")),
            ("max-conn", Some("max_conns")),
            ("max_fail", Some("max_fails")),
            ("resolve", None),
            ("", None),
        ] {
            assert_eq!(closest_match(typed, KNOWN), wanted, "{typed}");
        }
        assert_eq!(closest_match(&"x".repeat(1_000_000), KNOWN), None);
    }

    #[test]
    fn suggestion_lists_every_valid_word() {
        assert_eq!(suggestion("tetx", "formats", &["text", "json"]), "did you mean `text`? formats: text, json");
        assert_eq!(suggestion("xml", "formats", &["text", "json"]), "formats: text, json");
    }

    #[test]
    fn key_that_has_the_typed_word_is_likely_if_it_is_the_only_one() {
        let known = ["body_bytes", "in_flight_bytes", "in_flight_requests", "headers"];
        for (typed, wanted) in [
            ("body", Some("body_bytes")),
            ("Body", Some("body_bytes")),
            ("requests", Some("in_flight_requests")),
            ("flight-requests", Some("in_flight_requests")),
            ("header", Some("headers")),
            ("bytes", None),
            ("in_flight", None),
            ("bod", None),
            ("", None),
        ] {
            assert_eq!(likely_key(typed, &known), wanted, "{typed}");
        }
        assert!(key_suggestion("bytes", &known).contains("nearest keys: body_bytes, in_flight_bytes, "));
    }

    #[test]
    fn key_suggestion_names_three_keys_at_most() {
        let wanted = "did you mean `max_fails`? nearest keys: max_fails, max_conns, backup; see config/router.toml";
        assert_eq!(key_suggestion("max_fail", &KNOWN), wanted);
        assert!(!key_suggestion(&"x".repeat(1_000_000), &KNOWN).contains("did you mean"));
    }
}
