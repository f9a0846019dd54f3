//! The keys `policy` and `shadow`: a policy's name and words.

use crate::balance::{HashKey, PolicyError, PolicySpec, policy_table};
use crate::config::diagnostics::{Span, SpannedValue};
use crate::config::parse::suggest::{closest_match, suggestion};
use crate::config::parse::value::{ReadResult, TomlValue};

/// Reads a policy.
pub(super) fn parse_policy(value: &TomlValue<'_>) -> ReadResult<PolicySpec> {
    let text = value.string()?;
    let words = value.words()?;
    PolicySpec::parse(&text).map_err(|error| {
        let span = error_span(&words, &error).unwrap_or_else(|| value.span.clone());
        let policy = words.first().map_or("", |word| &word.value);
        span.diagnostic(error.to_string()).with_help(help(policy, &error)).into()
    })
}

/// Returns the help for an error in the words of `policy`.
fn help(policy: &str, error: &PolicyError) -> String {
    let row = policy_table().iter().find(|row| row.name == policy);
    let usage = row.map(|row| format!("write `{}`", row.usage())).unwrap_or_default();
    match error {
        PolicyError::UnknownPolicy(name) => {
            let likely = closest_match(name, policy_table().iter().map(|row| row.name));
            let question = likely.map(|policy| format!("did you mean `{policy}`? ")).unwrap_or_default();
            format!("{question}`tokenweir serve --help` lists the policies")
        }
        PolicyError::InvalidArgument(_) => usage,
        PolicyError::MissingArgument(_) => {
            let example = row.map(|row| format!(", for example `{} {}`", row.name, row.samples[0]));
            usage + &example.unwrap_or_default()
        }
        PolicyError::UnknownVariable(name) => {
            let variables = HashKey::variables();
            suggestion(name, "variables", &variables.iter().map(String::as_str).collect::<Vec<_>>())
        }
    }
}

/// Returns the place of an error among a policy's words; `None` if it concerns the policy as a whole.
fn error_span(words: &[SpannedValue<String>], error: &PolicyError) -> Option<Span> {
    let text = error.bad_text()?;
    let name_words = if matches!(error, PolicyError::UnknownPolicy(_)) { 0 } else { 1 };
    let in_word = |SpannedValue { value, span }: &SpannedValue<String>| {
        let start = span.start() + value.find(text).filter(|_| span.text() == value)?;
        Some(span.with_range(start..start + text.len()))
    };
    words.iter().skip(name_words).find_map(in_word)
}
