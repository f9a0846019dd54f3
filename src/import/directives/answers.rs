//! Answers of nginx's own: `return`, `internal` and `default_type`.

use crate::config::has_control_chars;
use crate::import::blocks::{BlockScope, NginxAnswer, NginxServer};
use crate::import::conditions::host_split::HostSplit;
use crate::import::context::ImportContext;
use crate::import::inheritance::{DEFAULT_TYPE, nearest_value};
use crate::import::syntax::directive::{Directive, DirectiveWord};
use crate::import::toml_text::quote_toml;
use crate::log_format::{LogFormat, ValueAvailability};

/// nginx's type of a text.
const PLAIN_TEXT: &str = "text/plain";
/// The statuses whose text is a URL.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// `return CODE [TEXT | URL] | URL`; converted at the end of the block, as the text's type may follow it.
pub(super) fn handle_return(context: &mut ImportContext, directive: &Directive) {
    let (known, has_break) = match (context.open.locations.last_mut(), &mut context.open.server) {
        (Some(location), _) if context.open.scope == BlockScope::Location => {
            (&mut location.return_directive, location.has_break)
        }
        (_, Some(server)) => (&mut server.return_directive, server.has_break),
        _ => return,
    };
    match known {
        _ if has_break => context.report.add_not_needed(directive, "a `break` before it keeps nginx from it"),
        Some(_) => context.report.add_not_needed(directive, "the first `return` of a block answers"),
        None => *known = Some(directive.clone()),
    }
}

/// `internal`: clients get a 404.
pub(super) fn handle_internal(context: &mut ImportContext, _: &Directive) {
    context.report.carried_count += 1;
    if let Some(location) = context.open.location() {
        location.is_internal = true;
    }
}

/// `default_type TYPE`: the type of the texts that `return` sends.
pub(super) fn handle_default_type(context: &mut ImportContext, directive: &Directive) {
    let text = directive.arg(0);
    if text.is_empty() || text.contains('$') || has_control_chars(text) {
        return context.reject_argument(directive, "a type, such as application/json");
    }
    context.set_part(DEFAULT_TYPE, text.to_owned(), 0, directive);
    context.report.add_not_needed(directive, "replicas set the content type of their answers");
}

/// Converts the `return`s of conditions on `$host`.
pub(super) fn convert_answers_by_name(context: &mut ImportContext, server: &mut NginxServer, split: HostSplit) {
    let mut known: Vec<NginxAnswer> = Vec::new();
    let mut convert = |context: &mut ImportContext, directive: &Directive| {
        if let Some(answer) = known.iter().find(|answer| answer.directive.is_same_as(directive)) {
            return Some(answer.clone());
        }
        known.extend(convert_return(context, directive));
        known.last().filter(|answer| answer.directive.is_same_as(directive)).cloned()
    };
    for (name, directive) in &split.answers {
        server.name_answers.extend(convert(context, directive).map(|answer| (name.clone(), answer)));
    }
    server.other_answer = split.other_answer.and_then(|directive| convert(context, &directive));
    context.client_keys.add_carried(split.conditions);
}

/// Returns the answer of a `return` at the end of its block; `None` and a diagnostic if it cannot be carried.
pub(super) fn convert_return(context: &mut ImportContext, directive: &Directive) -> Option<NginxAnswer> {
    let (status, text) = parse_return(context, directive)?;
    let is_redirect = REDIRECTS.contains(&status);
    if let Some(word) = text {
        check_text(context, directive, word, is_redirect)?;
    }
    context.report.carried_count += 1;
    let kind = nearest_value(&context.open.levels, DEFAULT_TYPE).map_or(PLAIN_TEXT, |value| value.toml.as_str());
    let toml = match text.map(|word| word.text.as_str()).filter(|text| !text.is_empty()) {
        None => quote_toml(&status.to_string()),
        Some(_) if status == 444 => quote_toml("444"),
        Some(text) if is_redirect || kind == PLAIN_TEXT && is_plain(text) => quote_toml(&format!("{status} {text}")),
        Some(text) => {
            format!("{{ status = {status}, text = {}, type = {} }}", quote_toml(text), quote_toml(kind))
        }
    };
    Some(NginxAnswer { toml, directive: directive.clone() })
}

/// Returns the status, and the text or URL if there is one.
fn parse_return<'a>(context: &mut ImportContext, directive: &'a Directive) -> Option<(u16, Option<&'a DirectiveWord>)> {
    let words = directive.args.as_slice();
    let status = words.first().and_then(|word| word.text.parse::<u16>().ok());
    match (words, status) {
        ([_], Some(status @ 200..=599)) => Some((status, None)),
        ([_, text], Some(status @ 200..=599)) => Some((status, Some(text))),
        ([url], None) if ["http://", "https://", "$scheme"].iter().any(|start| url.text.starts_with(start)) => {
            Some((302, Some(url)))
        }
        _ => {
            context.reject_argument(directive, "a status from 200 to 599 and a text or URL");
            None
        }
    }
}

/// Reports a text or URL that the router cannot send.
fn check_text(
    context: &mut ImportContext,
    directive: &Directive,
    word: &DirectiveWord,
    is_redirect: bool,
) -> Option<()> {
    let reason = match LogFormat::for_header(&word.text, ValueAvailability::AtRequest) {
        Ok(_) if is_redirect && has_control_chars(&word.text) => "a URL cannot contain control characters".to_owned(),
        Ok(_) => return Some(()),
        Err(bad) => bad.to_string(),
    };
    let issue = word.span.diagnostic(format!("this answer cannot be carried over: {reason}"));
    let name = &directive.name.text;
    context.report.add_diagnostic(issue.with_help(format!("write another text after `{name}`")));
    None
}

/// Returns whether a text keeps its form after a status and a space.
fn is_plain(text: &str) -> bool {
    text.trim() == text && !text.contains(char::is_control)
}
