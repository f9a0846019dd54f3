//! Conditions on `$host`: the names of a server that have an answer of their own.

use super::condition::{Condition, ConditionTest};
use super::program::{RewriteProgram, RunEnd, UNKNOWN_TEXT};
use crate::import::syntax::directive::Directive;

/// What the conditions of a server answer by the name in `Host`.
#[derive(Clone, Default)]
pub(in crate::import) struct HostSplit {
    /// Names, each with its `return`.
    pub(in crate::import) answers: Vec<(String, Directive)>,
    /// The `return` for all names that are not the server's.
    pub(in crate::import) other_answer: Option<Directive>,
    /// A name whose requests go on; `None` if there is none.
    pub(in crate::import) passing_name: Option<String>,
    /// The conditions that these answers are in.
    pub(in crate::import) conditions: Vec<Directive>,
}

impl RewriteProgram<'_> {
    /// Returns what the program answers by name; `None` if it does not depend on the name, or cannot be split.
    ///
    /// `names` are those of the server without wildcards.
    pub(in crate::import) fn split_by_host(&self, names: &[&str]) -> Option<HostSplit> {
        let compared = self.compared_hosts()?;
        if compared.iter().any(|host| !names.contains(&host.as_str())) {
            return None;
        }
        let mut split = HostSplit::default();
        let mut verdicts = Vec::new();
        for name in names.iter().copied().chain([UNKNOWN_TEXT]) {
            let program = RewriteProgram { host: Some(name), ..*self };
            if let Some((condition, answer)) = program.only_answer()? {
                if !split.conditions.iter().any(|known| known.is_same_as(condition)) {
                    split.conditions.push(condition.clone());
                }
                match name {
                    UNKNOWN_TEXT => split.other_answer = Some(answer.clone()),
                    _ => split.answers.push((name.to_owned(), answer.clone())),
                }
                continue;
            }
            let verdict = program.judge().ok()?;
            split.passing_name.get_or_insert_with(|| name.to_owned());
            verdicts.push((verdict.secrets, verdict.variables));
        }
        // All that go on must do so in the same way.
        let is_same = verdicts.windows(2).all(|pair| pair.first() == pair.last());
        (is_same && !split.conditions.is_empty()).then_some(split)
    }

    /// Returns the names that conditions compare `$host` with; `None` if there are none, or one is not readable.
    fn compared_hosts(&self) -> Option<Vec<String>> {
        let conditions = self.parts.into_iter().flatten().filter(|directive| directive.name.text == "if");
        let mut hosts = Vec::new();
        for condition in conditions.filter_map(|directive| Condition::parse(directive).ok()) {
            match condition.test {
                _ if condition.variable != "host" => {}
                ConditionTest::Equals(text) if !text.contains('$') => hosts.push(text),
                ConditionTest::IsOneOf(texts) => hosts.extend(texts),
                ConditionTest::Equals(_) | ConditionTest::IsSet => return None,
            }
        }
        Some(hosts).filter(|hosts| !hosts.is_empty())
    }

    /// Returns the condition and its `return` that answer all requests; outer `None` if a run cannot be followed.
    fn only_answer(&self) -> Option<Option<(&Directive, &Directive)>> {
        let mut only = None;
        for (_, end) in self.run_all()? {
            match (end, only) {
                (RunEnd::Unknown(_), _) => return None,
                (RunEnd::Answered { answer, condition: Some(condition) }, None) => only = Some((condition, answer)),
                (RunEnd::Answered { answer, condition: Some(_) }, Some((_, known))) if answer.is_same_as(known) => {}
                _ => return Some(None),
            }
        }
        Some(only)
    }
}
