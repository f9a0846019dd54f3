//! Applies the table of directives to each directive.

use super::blocks::{BlockLevel, BlockScope};
use super::context::ImportContext;
use super::directives::table::DirectiveRule;
use super::directives::{gzip, logs, table};
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
    context.open.levels.push(BlockLevel::default());
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
    match table::find_rule(name) {
        Some(DirectiveRule::Handler(handle)) => handle(context, directive),
        Some(DirectiveRule::Block { open, close }) => {
            if let Some(scope) = open(context, directive) {
                let inner = directive.block.as_deref().unwrap_or_default();
                read_block(context, inner, scope, |context| close(context, directive));
            }
        }
        Some(DirectiveRule::Duration(key)) => set_duration_key(context, key, directive),
        Some(DirectiveRule::NotNeeded(reason)) => context.report.add_not_needed(directive, *reason),
        Some(DirectiveRule::Unsupported(reason)) => context.report.add_unsupported(directive, *reason),
        Some(DirectiveRule::Impossible(reason)) => context.report.add_impossible(directive, *reason),
        None => {
            let issue = directive.name.span.diagnostic(format!("unknown directive `{name}`"));
            context.report.add_diagnostic(match table::suggest_directive(name) {
                Some(near) => issue.with_help(format!("did you mean `{near}`?")),
                None => issue.with_help("if it belongs to a third-party module, remove it by hand"),
            });
        }
    }
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
