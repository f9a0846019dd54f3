//! What the conditions of a server and a location mean for their requests.

use std::collections::{BTreeMap, BTreeSet};

use super::program::{KeyTexts, ProgramFault, RewriteProgram, RunEnd, UNKNOWN_TEXT};
use super::variables::KEY_HEADERS;
use crate::import::syntax::directive::Directive;

/// What a program of conditions means for the requests that reach it.
#[derive(Clone, Default)]
pub(in crate::import) struct ConditionVerdict {
    /// The keys of which one is needed; `None` if every request passes.
    pub(in crate::import) secrets: Option<BTreeSet<String>>,
    /// The conditions that refuse requests without a key, each with its status.
    pub(in crate::import) refusals: Vec<(Directive, u16)>,
    /// The values of variables for the requests that pass; `None`: not the same for all.
    pub(in crate::import) variables: BTreeMap<String, Option<String>>,
}

/// The runs of a program by their ends.
#[derive(Default)]
struct SortedRuns<'a> {
    passing: Vec<(KeyTexts, BTreeMap<String, Option<String>>)>,
    refused: Vec<RefusedRun<'a>>,
    /// The number of runs that get to a `return` outside of all conditions. They pass the conditions.
    own_answers: usize,
}

/// A run that a condition ends.
struct RefusedRun<'a> {
    headers: KeyTexts,
    condition: &'a Directive,
    /// The `return` in it.
    answer: &'a Directive,
}

impl RewriteProgram<'_> {
    /// Returns what the program means.
    ///
    /// *Errors*: requests depend on a directive that cannot be carried over.
    pub(in crate::import) fn judge(&self) -> Result<ConditionVerdict, ProgramFault> {
        let mut conditions = self.parts.into_iter().flatten().filter(|directive| directive.name.text == "if");
        let Some(first_condition) = conditions.next() else {
            let runs = SortedRuns::new(self.run_all().unwrap_or_default())?;
            return Ok(ConditionVerdict { variables: runs.common_values(), ..ConditionVerdict::default() });
        };
        let runs =
            self.run_all().ok_or_else(|| ProgramFault::new(first_condition, "it compares with too many texts"))?;
        let runs = SortedRuns::new(runs)?;
        if runs.own_answers > 0 && runs.own_answers < runs.passing.len() {
            return Err(ProgramFault::new(first_condition, "the router answers all requests of a location, or none"));
        }
        let variables = runs.common_values();
        let Some(first) = runs.refused.first() else {
            return Ok(ConditionVerdict { variables, ..ConditionVerdict::default() });
        };
        let secrets = runs.secrets().map_err(|reason| ProgramFault::new(first.condition, reason))?;
        Ok(ConditionVerdict { secrets: Some(secrets), refusals: runs.refusals()?, variables })
    }
}

impl<'a> SortedRuns<'a> {
    /// *Errors*: a run ends at a directive that cannot be evaluated.
    fn new(runs: Vec<(KeyTexts, RunEnd<'a>)>) -> Result<Self, ProgramFault> {
        let mut sorted = Self::default();
        for (headers, end) in runs {
            match end {
                RunEnd::Unknown(fault) => return Err(fault),
                RunEnd::Passes(variables) => sorted.passing.push((headers, variables)),
                RunEnd::Answered { answer, condition: Some(condition) } => {
                    sorted.refused.push(RefusedRun { headers, condition, answer });
                }
                RunEnd::Answered { condition: None, .. } => {
                    sorted.own_answers += 1;
                    sorted.passing.push((headers, BTreeMap::new()));
                }
            }
        }
        Ok(sorted)
    }

    /// Returns the values that are the same in all runs that pass.
    fn common_values(&self) -> BTreeMap<String, Option<String>> {
        let names: BTreeSet<&String> = self.passing.iter().flat_map(|(_, values)| values.keys()).collect();
        let common = |name: &String| {
            let mut values = self.passing.iter().map(|(_, values)| values.get(name).cloned().flatten());
            let first = values.next().flatten()?;
            values.all(|value| value.as_ref() == Some(&first)).then_some(first)
        };
        names.into_iter().map(|name| (name.clone(), common(name))).collect()
    }

    /// Returns the keys of which one is needed.
    ///
    /// *Errors*: the reason why the runs that pass are not those with a key.
    fn secrets(&self) -> Result<BTreeSet<String>, &'static str> {
        let is_unknown = |text: &str| text == UNKNOWN_TEXT;
        // The texts of each header that pass next to an unknown one.
        let admitted: [BTreeSet<&String>; KEY_HEADERS.len()] = std::array::from_fn(|index| {
            let is_alone = |headers: &KeyTexts| {
                headers.iter().enumerate().all(|(other, text)| is_unknown(text) != (other == index))
            };
            self.passing
                .iter()
                .filter(|(headers, _)| is_alone(headers))
                .filter_map(|(headers, _)| headers.get(index))
                .collect()
        });
        let shows_key =
            |headers: &KeyTexts| headers.iter().zip(&admitted).any(|(text, admitted)| admitted.contains(text));
        let all_show_key = self.passing.iter().all(|(headers, _)| shows_key(headers));
        if self.passing.is_empty() || !all_show_key || self.refused.iter().any(|run| shows_key(&run.headers)) {
            return Err("the router admits requests with a key, and refuses all others");
        }
        let mut secrets = BTreeSet::new();
        for (header, texts) in KEY_HEADERS.iter().zip(&admitted) {
            for text in texts {
                let key = key_in_header(header, text);
                secrets
                    .insert(key.ok_or("keys are sent as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")?.to_owned());
            }
        }
        Ok(secrets)
    }

    /// Returns the conditions that end runs, each with its status.
    ///
    /// *Errors*: one answers otherwise than with a refusal.
    fn refusals(&self) -> Result<Vec<(Directive, u16)>, ProgramFault> {
        let mut refusals: Vec<(Directive, u16)> = Vec::new();
        for RefusedRun { condition, answer, .. } in &self.refused {
            let status = answer.arg(0).parse().ok().filter(|status| (400..500).contains(status));
            let reason = "a request without a key is refused with 401, not answered otherwise";
            let status = status.ok_or_else(|| ProgramFault::new(condition, reason))?;
            if !refusals.iter().any(|(known, _)| known.is_same_as(condition)) {
                refusals.push(((*condition).clone(), status));
            }
        }
        Ok(refusals)
    }
}

/// Returns the key in the text of a key header; `None` if the router would not find it there.
fn key_in_header<'a>(header: &str, text: &'a str) -> Option<&'a str> {
    let key = match header {
        "http_authorization" => {
            let (scheme, key) = text.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case("Bearer ").then_some(key)?
        }
        _ => text,
    };
    (!key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic())).then_some(key)
}
