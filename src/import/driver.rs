//! Applies the table of directives to each directive.

use super::blocks::{BlockLevel, BlockScope};
use super::conditions;
use super::conditions::program::RewriteProgram;
use super::conditions::variables::VariableTable;
use super::context::ImportContext;
use super::directives::table::DirectiveRule;
use super::directives::{access_rules, gzip, logs, table};
use super::syntax::directive::Directive;
use super::toml_text::quote_duration;
use crate::config::parse::units;

/// Reads all directives of a configuration into `context`.
pub(super) fn read_configuration(context: &mut ImportContext, directives: &[Directive]) {
    context.variables = VariableTable::collect(directives);
    read_block(context, directives, BlockScope::Main, |_| {});
    conditions::remarks::finish_conditions(context);
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
                match scope {
                    BlockScope::Server => context.open.server_program = conditions::program_directives(inner),
                    BlockScope::Location => judge_location(context, inner),
                    _ => {}
                }
                read_block(context, inner, scope, |context| {
                    if scope == BlockScope::Server {
                        split_server(context);
                    }
                    close(context, directive);
                });
            } else if name == "location" {
                report_unknown_inside(context, directive);
            }
        }
        DirectiveRule::Duration(key) => set_duration_key(context, key, directive),
        DirectiveRule::Harmless(kind, reason) => context.report.add_remark(*kind, directive, (*reason).to_owned()),
        DirectiveRule::Guard(rule) => access_rules::add_guard(context, directive, rule),
        DirectiveRule::ContentHandler(reason) => access_rules::add_content_handler(context, directive, reason),
        DirectiveRule::Condition => read_condition(context, directive),
    }
}

/// Reads an `if` or a `limit_except`. What an `if` does is judged with its block.
fn read_condition(context: &mut ImportContext, condition: &Directive) {
    let name = condition.name.text.as_str();
    for inner in condition.block.iter().flatten() {
        match table::find_rule(&inner.name.text) {
            None => report_unknown(context, inner),
            Some((contexts, _)) if !contexts.allows_in_condition(name, context.open.scope) => {
                let issue = inner.name.span.diagnostic(format!("`{}` is not allowed here", inner.name.text));
                let help = format!("allowed in {}", contexts.describe());
                context.report.add_diagnostic(issue.with_help(help));
            }
            Some(_) => {}
        }
    }
    match name {
        "if" => context.deferred.conditions.push(condition.clone()),
        _ => access_rules::add_limit_except(context, condition, condition.block.iter().flatten().all(is_harmless)),
    }
}

/// Judges the conditions of a location that is opened. Those of a server are split by its names before.
fn judge_location(context: &mut ImportContext, block: &[Directive]) {
    split_server(context);
    let host = context.open.server.as_ref().and_then(|server| server.split.as_ref()?.passing_name.clone());
    let program = RewriteProgram {
        variables: &context.variables,
        parts: [&context.open.server_program, block],
        host: host.as_deref(),
        is_harmless: &is_harmless,
    };
    let verdict = program.judge();
    if let Some(location) = context.open.location() {
        location.conditions = Some(verdict);
    }
}

/// Judges the conditions of the open server once its names are read.
fn split_server(context: &mut ImportContext) {
    let Some(server) = context.open.server.as_mut().filter(|server| server.conditions.is_none()) else { return };
    let names = server.names.iter().filter(|name| !name.is_pattern).map(|name| name.text.as_str());
    let names: Vec<&str> = names.filter(|name| !name.contains('*') && !name.starts_with('.')).collect();
    let parts: [&[Directive]; 2] = [&context.open.server_program, &[]];
    let program = RewriteProgram { variables: &context.variables, parts, host: None, is_harmless: &is_harmless };
    let split = program.split_by_host(&names);
    let host = split.as_ref().and_then(|split| split.passing_name.as_deref());
    server.conditions = Some(RewriteProgram { host, ..program }.judge());
    server.split = split;
}

/// Returns whether a directive in an `if` or a `limit_except` has no effect on where requests go.
fn is_harmless(directive: &Directive) -> bool {
    /// Converted directives that act on answers and the log only.
    const HARMLESS_IN_CONDITIONS: [&str; 4] = ["access_log", "add_header", "expires", "gzip"];
    let name = directive.name.text.as_str();
    let rule = table::find_rule(name).map(|(_, rule)| rule);
    HARMLESS_IN_CONDITIONS.contains(&name) || matches!(rule, Some(DirectiveRule::Harmless(..)))
}

/// Reports the unknown directives of a block that is not read.
fn report_unknown_inside(context: &mut ImportContext, block: &Directive) {
    for inner in block.block.iter().flatten() {
        match table::find_rule(&inner.name.text) {
            None => report_unknown(context, inner),
            Some(_) if inner.name.text == "if" => report_unknown_inside(context, inner),
            Some(_) => {}
        }
    }
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
