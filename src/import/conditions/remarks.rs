//! The remarks on conditions.

use super::client_keys::KeyCondition;
use super::may_show_key;
use crate::import::context::ImportContext;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;

/// Remarks on every `if` once all locations are read.
pub(in crate::import) fn finish_conditions(context: &mut ImportContext) {
    for condition in std::mem::take(&mut context.deferred.conditions) {
        if context.client_keys.is_carried(&condition) {
            context.report.carried_count += 1;
            continue;
        }
        let subject = match may_show_key(&condition) {
            true => format!("if {} ... {{}}", condition.arg(0)),
            false => condition.to_one_line(),
        };
        let (kind, reason) = match context.client_keys.find_use(&condition) {
            Some(key) => (RemarkKind::Note, describe_key(key)),
            None if sets_only(&condition) => {
                (RemarkKind::NotNeeded, "its variables are worked out where requests depend on them".to_owned())
            }
            None => (RemarkKind::Impossible, "no request to a replica depends on it: the block is left out".to_owned()),
        };
        context.report.carried_count += usize::from(kind == RemarkKind::Note);
        context.report.add_remark_at(kind, subject, condition.source_line(), reason);
    }
}

fn sets_only(condition: &Directive) -> bool {
    condition.block.iter().flatten().all(|inner| inner.name.text == "set")
}

/// Returns what becomes of an `if` that asks for keys.
fn describe_key(KeyCondition { names, status, .. }: &KeyCondition) -> String {
    let noun = if names.len() == 1 { "key" } else { "keys" };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let status = match status {
        401 => "401".to_owned(),
        status => format!("401 (nginx: {status})"),
    };
    format!(
        "it becomes the API {noun} {}: other requests get {status}; a key comes as `Authorization: Bearer` or \
         `X-Api-Key`, and replicas do not get it (set the pool's `api_key` if they ask for one)",
        names.join(", ")
    )
}
