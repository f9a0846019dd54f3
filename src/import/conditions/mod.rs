//! Conditions: what `if`, `set` and `map` mean for the requests that reach replicas.
//!
//! A condition on a key in a header becomes a key of the router. Any other that refuses requests or leads them
//! elsewhere stops the import at its line.

pub(super) mod client_keys;
mod condition;
pub(super) mod host_split;
mod literal_pattern;
pub(super) mod program;
pub(super) mod remarks;
#[cfg(test)]
mod tests;
pub(super) mod variables;
pub(super) mod verdict;

use super::syntax::directive::Directive;

/// Returns the directives of a block that requests run through before they are answered.
pub(super) fn program_directives(block: &[Directive]) -> Vec<Directive> {
    let names = ["if", "set", "break", "return"];
    block.iter().filter(|directive| names.contains(&directive.name.text.as_str())).cloned().collect()
}

/// Returns whether a directive may show a key.
pub(super) fn may_show_key(directive: &Directive) -> bool {
    let names =
        |word: &str| word.contains("earer ") || variables::KEY_HEADERS.iter().any(|header| word.contains(header));
    directive.arg_texts().into_iter().any(names)
}
