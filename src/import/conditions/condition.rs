//! The condition of an `if`.

use super::literal_pattern::list_texts;
use crate::import::syntax::directive::Directive;

/// A condition that can be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// The name of the variable, without `$`.
    pub(super) variable: String,
    pub(super) test: ConditionTest,
    /// Whether the test must fail.
    pub(super) is_negated: bool,
}

/// The test of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConditionTest {
    /// It is neither empty nor `0`.
    IsSet,
    /// It equals a text, which may contain variables.
    Equals(String),
    /// It is one of these texts.
    IsOneOf(Vec<String>),
}

impl Condition {
    /// Parses the words of an `if`.
    ///
    /// *Errors*: the reason why it cannot be evaluated.
    pub(super) fn parse(directive: &Directive) -> Result<Self, String> {
        let mut words = directive.arg_texts();
        strip_parentheses(&mut words);
        let variable = |word: &str| {
            let name = word.strip_prefix('$').filter(|name| is_variable_name(name)).map(str::to_owned);
            name.ok_or_else(|| "the router does not evaluate this condition".to_owned())
        };
        match words.as_slice() {
            [word] => Ok(Self { variable: variable(word)?, test: ConditionTest::IsSet, is_negated: false }),
            [word, "=", text] => Ok(Self {
                variable: variable(word)?,
                test: ConditionTest::Equals((*text).to_owned()),
                is_negated: false,
            }),
            [word, "!=", text] => Ok(Self {
                variable: variable(word)?,
                test: ConditionTest::Equals((*text).to_owned()),
                is_negated: true,
            }),
            [word, operator @ ("~" | "!~"), pattern] => {
                let texts = list_texts(pattern).ok_or("this pattern stands for more than a list of texts")?;
                let is_negated = *operator == "!~";
                Ok(Self { variable: variable(word)?, test: ConditionTest::IsOneOf(texts), is_negated })
            }
            [_, "~*" | "!~*", _] => Err("this pattern ignores case, and keys do not".to_owned()),
            [test, _] if test.trim_start_matches('!').starts_with('-') => {
                Err("the router looks for no files".to_owned())
            }
            _ => Err("the router does not evaluate this condition".to_owned()),
        }
    }
}

/// Removes the parentheses around the words of a condition.
fn strip_parentheses(words: &mut Vec<&str>) {
    if let Some(first) = words.first_mut()
        && let Some(rest) = first.strip_prefix('(')
    {
        *first = rest;
        if rest.is_empty() {
            words.remove(0);
        }
    }
    if let Some(last) = words.last_mut()
        && let Some(rest) = last.strip_suffix(')')
    {
        *last = rest;
        if rest.is_empty() {
            words.pop();
        }
    }
}

/// Returns whether a text can be the name of a variable.
pub(super) fn is_variable_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
