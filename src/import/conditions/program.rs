//! The program of `if`, `set`, `return` and `break` that nginx runs before a request reaches a replica.
//!
//! It is run for every text that it compares a key header with, for an empty header and for one that equals none of
//! them. So its result is known for all requests, or the directive is known on which it depends.

use std::collections::{BTreeMap, BTreeSet};

use super::condition::{Condition, ConditionTest};
use super::variables::{KEY_HEADERS, VariableTable};
use crate::import::syntax::directive::Directive;

/// The maximum number of runs of a program.
const MAX_RUNS: usize = 1_000;
/// A text that nothing is compared with: no header has a control character.
pub(super) const UNKNOWN_TEXT: &str = "\u{1}";
/// The maximum depth of variables that depend on each other.
const MAX_DEPTH: usize = 8;

/// The headers of a request that matter to a program, in the order of [`KEY_HEADERS`].
pub(super) type KeyTexts = [String; KEY_HEADERS.len()];

/// How a run ends.
pub(super) enum RunEnd<'a> {
    /// The request goes on, with these values of the variables that the configuration defines; `None`: not known.
    Passes(BTreeMap<String, Option<String>>),
    /// A `return` answers it, in this `if` or outside of all.
    Answered { answer: &'a Directive, condition: Option<&'a Directive> },
    /// It depends on this directive, which cannot be evaluated.
    Unknown(ProgramFault),
}

/// A directive that cannot be evaluated, and why.
#[derive(Clone)]
pub(in crate::import) struct ProgramFault {
    pub(in crate::import) directive: Box<Directive>,
    pub(in crate::import) reason: String,
}

/// The value of a variable.
#[derive(Clone)]
enum Value {
    Known(String),
    /// The text of a key header, unchanged.
    Header(usize),
    /// It depends on the variable of this name.
    Unknown(String),
}

/// A program: the directives of a server, then those of a location.
#[derive(Clone, Copy)]
pub(in crate::import) struct RewriteProgram<'a> {
    pub(in crate::import) variables: &'a VariableTable,
    pub(in crate::import) parts: [&'a [Directive]; 2],
    /// The value of `$host` in conditions, if it is known.
    pub(in crate::import) host: Option<&'a str>,
    /// Returns whether a directive in an `if` has no effect on where requests go.
    pub(in crate::import) is_harmless: &'a dyn Fn(&Directive) -> bool,
}

/// The state of a run.
struct ProgramRun<'r, 'a> {
    program: &'r RewriteProgram<'a>,
    headers: &'r KeyTexts,
    set: BTreeMap<String, Value>,
    /// The texts that each header was compared with.
    compared: &'r mut [BTreeSet<String>; KEY_HEADERS.len()],
}

/// How a part of a program ends.
enum Flow<'a> {
    Continues,
    Breaks,
    Ends(RunEnd<'a>),
}

impl ProgramFault {
    pub(super) fn new(directive: &Directive, reason: impl Into<String>) -> Self {
        Self { directive: Box::new(directive.clone()), reason: reason.into() }
    }
}

impl<'a> RewriteProgram<'a> {
    /// Runs the program for all requests that differ for it; `None` if they are too many.
    pub(super) fn run_all(&self) -> Option<Vec<(KeyTexts, RunEnd<'a>)>> {
        let mut compared: [BTreeSet<String>; KEY_HEADERS.len()] = Default::default();
        let mut texts: [BTreeSet<String>; KEY_HEADERS.len()] =
            std::array::from_fn(|_| BTreeSet::from([String::new(), UNKNOWN_TEXT.to_owned()]));
        loop {
            if texts.iter().map(BTreeSet::len).product::<usize>() > MAX_RUNS {
                return None;
            }
            let mut runs = Vec::new();
            for first in &texts[0] {
                for second in &texts[1] {
                    let headers = [first.clone(), second.clone()];
                    let end = self.run(&headers, &mut compared);
                    runs.push((headers, end));
                }
            }
            let before = texts.clone();
            texts.iter_mut().zip(&compared).for_each(|(texts, compared)| texts.extend(compared.iter().cloned()));
            if texts == before {
                return Some(runs);
            }
        }
    }

    fn run(&self, headers: &KeyTexts, compared: &mut [BTreeSet<String>; KEY_HEADERS.len()]) -> RunEnd<'a> {
        let mut run = ProgramRun { program: self, headers, set: BTreeMap::new(), compared };
        for part in self.parts {
            // `break` ends the directives of its own block only.
            if let Flow::Ends(end) = run.run_block(part, None) {
                return end;
            }
        }
        RunEnd::Passes(run.known_values())
    }
}

impl<'a> ProgramRun<'_, 'a> {
    fn run_block(&mut self, block: &'a [Directive], condition: Option<&'a Directive>) -> Flow<'a> {
        for directive in block {
            let flow = match directive.name.text.as_str() {
                "set" => self.run_set(directive),
                "break" => Flow::Breaks,
                "return" => Flow::Ends(RunEnd::Answered { answer: directive, condition }),
                "if" => self.run_if(directive),
                // Outside of an `if` the other directives are examined where they stand.
                _ => match condition.filter(|_| !(self.program.is_harmless)(directive)) {
                    Some(condition) => {
                        let reason = format!("the router has no `{}` that depends on a condition", directive.name.text);
                        fault(condition, reason)
                    }
                    None => Flow::Continues,
                },
            };
            if !matches!(flow, Flow::Continues) {
                return flow;
            }
        }
        Flow::Continues
    }

    fn run_set(&mut self, directive: &Directive) -> Flow<'a> {
        let value = self.expand(directive.arg(1), 0);
        self.set.insert(directive.arg(0).trim_start_matches('$').to_owned(), value);
        Flow::Continues
    }

    fn run_if(&mut self, directive: &'a Directive) -> Flow<'a> {
        let block = directive.block.as_deref().unwrap_or_default();
        match self.evaluate(directive) {
            Ok(true) => self.run_block(block, Some(directive)),
            Ok(false) => Flow::Continues,
            Err(reason) => {
                // Without an effect on requests, only the variables that it sets are not known.
                if !block.iter().all(|inner| inner.name.text == "set" || (self.program.is_harmless)(inner)) {
                    return fault(directive, reason);
                }
                for inner in block.iter().filter(|inner| inner.name.text == "set") {
                    let name = inner.arg(0).trim_start_matches('$');
                    self.set.insert(name.to_owned(), Value::Unknown(name.to_owned()));
                }
                Flow::Continues
            }
        }
    }

    /// Evaluates the condition of an `if`.
    ///
    /// *Errors*: the reason why it cannot be known.
    fn evaluate(&mut self, directive: &Directive) -> Result<bool, String> {
        let unknown = |name: &str| format!("the import cannot know `${name}`");
        let Condition { variable, test, is_negated } = Condition::parse(directive)?;
        let expected: Vec<String> = match &test {
            ConditionTest::IsSet => vec![String::new(), "0".to_owned()],
            ConditionTest::IsOneOf(texts) => texts.clone(),
            ConditionTest::Equals(text) => match self.expand(text, 0) {
                Value::Known(text) => vec![text],
                Value::Header(index) => return Err(unknown(KEY_HEADERS.get(index).unwrap_or(&""))),
                Value::Unknown(name) => return Err(unknown(&name)),
            },
        };
        let value = match self.program.host.filter(|_| variable == "host") {
            Some(host) => Value::Known(host.to_owned()),
            None => self.lookup(&variable, 0),
        };
        let text = match &value {
            Value::Known(text) => text.clone(),
            Value::Header(index) => {
                if let Some(compared) = self.compared.get_mut(*index) {
                    compared.extend(expected.iter().cloned());
                }
                self.headers.get(*index).cloned().unwrap_or_default()
            }
            Value::Unknown(name) => return Err(unknown(name)),
        };
        let is_listed = expected.contains(&text);
        let holds = if test == ConditionTest::IsSet { !is_listed } else { is_listed };
        Ok(holds != is_negated)
    }

    /// Returns the value of a variable.
    fn lookup(&mut self, name: &str, depth: usize) -> Value {
        let unknown = || Value::Unknown(name.to_owned());
        if depth > MAX_DEPTH {
            return unknown();
        }
        if let Some(index) = KEY_HEADERS.iter().position(|header| *header == name) {
            return if self.program.variables.defines(name) { unknown() } else { Value::Header(index) };
        }
        if self.program.variables.is_set(name) {
            return self.set.get(name).cloned().unwrap_or(Value::Known(String::new()));
        }
        let Some(map) = self.program.variables.find_map(name) else { return unknown() };
        let text = match self.expand(&map.source, depth + 1) {
            Value::Known(text) => text,
            Value::Header(index) => {
                if let Some(compared) = self.compared.get_mut(index) {
                    compared.extend(map.texts().map(str::to_owned));
                }
                self.headers.get(index).cloned().unwrap_or_default()
            }
            Value::Unknown(name) => return Value::Unknown(name),
        };
        match map.value_of(&text) {
            Some(value) => self.expand(value, depth + 1),
            None => unknown(),
        }
    }

    /// Returns a text with the values of its variables. A header with text around it is not followed.
    fn expand(&mut self, text: &str, depth: usize) -> Value {
        let mut expanded = String::new();
        let mut parts = split_variables(text);
        if let [TextPart::Variable(name)] = parts.as_slice() {
            return self.lookup(name, depth);
        }
        for part in parts.drain(..) {
            match part {
                TextPart::Text(text) => expanded.push_str(text),
                TextPart::Variable(name) => match self.lookup(name, depth) {
                    Value::Known(value) => expanded.push_str(&value),
                    Value::Header(_) => return Value::Unknown(name.to_owned()),
                    Value::Unknown(name) => return Value::Unknown(name),
                },
            }
        }
        Value::Known(expanded)
    }

    fn known_values(self) -> BTreeMap<String, Option<String>> {
        let known = |value| match value {
            Value::Known(text) => Some(text),
            Value::Header(_) | Value::Unknown(_) => None,
        };
        self.set.into_iter().map(|(name, value)| (name, known(value))).collect()
    }
}

fn fault(directive: &Directive, reason: String) -> Flow<'static> {
    Flow::Ends(RunEnd::Unknown(ProgramFault::new(directive, reason)))
}

/// A part of a text with variables.
enum TextPart<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Splits a text at its variables, `$name` and `${name}`.
fn split_variables(text: &str) -> Vec<TextPart<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            parts.push(TextPart::Text(before));
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after_name) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            after.split_at(end)
        });
        parts.push(TextPart::Variable(name));
        rest = after_name;
    }
    if !rest.is_empty() {
        parts.push(TextPart::Text(rest));
    }
    parts
}
