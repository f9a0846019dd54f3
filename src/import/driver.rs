//! Applies the table of directives to each directive.

use super::blocks::{BlockLevel, BlockScope};
use super::context::ImportContext;
use super::directives::table::DirectiveRule;
use super::directives::{access_rules, gzip, logs, table};
use super::syntax::directive::Directive;
use super::toml_text::quote_duration;
use crate::config::parse::units;

/// Reads all directives of a configuration into `context`.
pub(super) fn read_configuration(context: &mut ImportContext, directives: &[Directive]) {
    read_block(context, directives, BlockScope::Main, |_| {});
    logs::finish_log_formats(context);
    gzip::finish_gzip(context);
}

/// Reads all directives of a block; `close` runs at its end, while the block's inherited directives are in force.
fn read_block(
    context: &mut ImportContext,
    directives: &[Directive],
    scope: BlockScope,
    close: impl FnOnce(&mut ImportContext),
) {
    let outer_scope = std::mem::replace(&mut context.open.scope, scope);
    context.open.levels.push(BlockLevel { scope, ..BlockLevel::default() });
    // A block inherits directives that follow it, so blocks come last.
    let (blocks, lines): (Vec<_>, Vec<_>) = directives.iter().partition(|directive| directive.block.is_some());
    for directive in lines.into_iter().chain(blocks) {
        if !context.report.is_full() {
            read_directive(context, directive);
        }
    }
    close(context);
    context.open.levels.pop();
    context.open.scope = outer_scope;
}

fn read_directive(context: &mut ImportContext, directive: &Directive) {
    let name = directive.name.text.as_str();
    let Some((contexts, rule)) = table::find_rule(name) else { return report_unknown(context, directive) };
    if !contexts.allows(context.open.scope) {
        let issue = directive.name.span.diagnostic(format!("`{name}` is not allowed here"));
        return context.report.add_diagnostic(issue.with_help(format!("allowed in {}", contexts.describe())));
    }
    match rule {
        DirectiveRule::Handler(handle) => handle(context, directive),
        DirectiveRule::Block { open, close } => {
            if let Some(scope) = open(context, directive) {
                let inner = directive.block.as_deref().unwrap_or_default();
                read_block(context, inner, scope, |context| close(context, directive));
            }
        }
        DirectiveRule::Duration(key) => set_duration_key(context, key, directive),
        DirectiveRule::Harmless(kind, reason) => context.report.add_remark(*kind, directive, (*reason).to_owned()),
        DirectiveRule::Guard(rule) => access_rules::add_guard(context, directive, rule),
        DirectiveRule::ContentHandler(reason) => access_rules::add_content_handler(context, directive, reason),
        DirectiveRule::Condition => {
            let is_harmless = has_harmless_block(directive, context.open.scope);
            access_rules::add_condition(context, directive, is_harmless);
        }
    }
}

/// Returns whether no request depends on the block of an `if` or a `limit_except`.
fn has_harmless_block(condition: &Directive, scope: BlockScope) -> bool {
    /// Converted directives that act on answers and the log only. `set` matters where its variable does.
    const HARMLESS_IN_CONDITIONS: [&str; 5] = ["access_log", "add_header", "expires", "gzip", "set"];
    condition.block.iter().flatten().all(|inner| {
        let name = inner.name.text.as_str();
        table::find_rule(name).is_some_and(|(contexts, rule)| {
            let is_listed = HARMLESS_IN_CONDITIONS.contains(&name) || matches!(rule, DirectiveRule::Harmless(..));
            is_listed && contexts.allows_in_condition(&condition.name.text, scope)
        })
    })
}

fn report_unknown(context: &mut ImportContext, directive: &Directive) {
    let name = &directive.name.text;
    let issue = directive.name.span.diagnostic(format!("unknown directive `{name}`"));
    context.report.add_diagnostic(match table::suggest_directive(name) {
        Some(near) => issue.with_help(format!("did you mean `{near}`?")),
        None => issue.with_help("if it belongs to a third-party module, remove it by hand: it may refuse requests"),
    });
}

fn set_duration_key(context: &mut ImportContext, key: &'static str, directive: &Directive) {
    let [word] = directive.args.as_slice() else {
        let name = &directive.name.text;
        let issue =
            directive.name.span.diagnostic(format!("`{name}` takes a time, not {} words", directive.args.len()));
        return context.report.add_diagnostic(issue.with_help(format!("for example {name} 60s;")));
    };
    let Some(time) = units::parse_duration(&word.text) else {
        return context.reject_argument(directive, "a time such as 60s, 500ms or 5m");
    };
    if time.is_zero() && key != "timeouts.drain" {
        return context.report.add_impossible(directive, "a timeout of 0 would end every request");
    }
    context.set_key(key, quote_duration(&word.text), time.as_nanos(), directive);
}
