//! From the drafts to the settings: compares all parts of the configuration with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::build_context::{BuildContext, SettingSpans};
use super::diagnostics::{Diagnostics, SpannedValue};
use super::host::{build_routes, check_certificates, named_pools};
use super::loaded::LoadedConfig;
use super::loader::ConfigLoader;
use super::pool::build::build_pools;
use super::pool::draft::PoolDraft;
use super::pool::warnings::skewed_key_warnings;
use super::schema::client_key::{build_tenants, unusable_key_warning};
use super::schema::log_words::find_format;
use super::schema::secret::SecretDraft;
use super::schema::settings_draft::SettingsDraft;
use super::settings::Settings;

/// The key at the top that is a default for every `[[pool]]`.
const POOL_DEFAULT_KEY: &str = "policy";

/// Builds the configuration; `file` is the name of the file in messages.
///
/// *Errors*: all that were found, here and while reading.
pub(super) fn build(
    loader: ConfigLoader,
    file: &str,
    env: &BTreeMap<String, String>,
) -> Result<LoadedConfig, Diagnostics> {
    let ConfigLoader { settings, top_level_pool, pools, mut hosts, client_keys, spans, errors } = loader;
    let SettingsDraft { mut settings, admin_token, format_name, referenced_files, scope } = settings;
    let mut context = BuildContext { errors, warnings: Vec::new(), referenced_files };
    settings.scope = Arc::new(scope.apply(&settings.scope));
    check_limits(&settings, &spans, &mut context);
    resolve_admin_token(&mut settings, &admin_token, env, &mut context);
    check_admin_access(&settings, &spans, &mut context);
    settings.tenants = build_tenants(&client_keys, env, &mut context.errors);
    if let Some(name) = &format_name {
        match find_format(name, &settings.log.formats) {
            Ok(format) => settings.log.format = format,
            Err(error) => context.errors.push(error),
        }
    }
    hosts.iter_mut().for_each(|host| host.resolve_access_logs(&settings.log, &mut context.errors));
    let default_policy = top_level_pool.policy.clone();
    let mut pools = select_pools(top_level_pool, pools, &mut context);
    context.warnings.extend(skewed_key_warnings(&pools, default_policy.as_ref(), &settings));
    for pool in &mut pools {
        let name = pool.name_or_default().value;
        settings.limits.max_in_flight_by_pool.extend(pool.max_in_flight.map(|max| (name.clone(), max)));
        settings.headers.add_pool(name, pool.headers.request.take(), pool.headers.response.take());
    }
    let named: BTreeSet<&str> = named_pools(&hosts).collect();
    settings.pools = build_pools(pools, &named, default_policy.as_ref(), env, &mut context);
    build_routes(&mut settings, &hosts, spans.contains_key(&("", "listen")), &mut context);
    check_certificates(&settings, &hosts, &spans, &mut context);
    context.warnings.extend(unusable_key_warning(&client_keys, &settings.pools));
    if !context.errors.is_empty() {
        return Err(Diagnostics::new(file, context.errors));
    }
    let warnings = Diagnostics::new(file, context.warnings).into_diagnostics();
    Ok(LoadedConfig { settings, warnings, referenced_files: context.referenced_files })
}

/// Returns the `[[pool]]`s, else the pool at the top. Together they are an error.
fn select_pools(top: PoolDraft, pools: Vec<PoolDraft>, context: &mut BuildContext) -> Vec<PoolDraft> {
    let Some(first) = pools.first() else { return vec![top] };
    for SpannedValue { value: key, span } in top.given_keys.iter().filter(|given| given.value != POOL_DEFAULT_KEY) {
        let pool = first.span.relative_to(span);
        let message = format!("`{key}` at the top is for a file without `[[pool]]` ({pool})");
        let help = format!("keep the `[[pool]]`s and move `{key}` into one of them");
        context.errors.push(span.diagnostic(message).with_help(help));
    }
    pools
}

fn resolve_admin_token(
    settings: &mut Settings,
    draft: &SecretDraft,
    env: &BTreeMap<String, String>,
    context: &mut BuildContext,
) {
    match draft.resolve_digest(["admin_token", "admin_token_env", "admin_token_file"], env) {
        Ok(token) => settings.admin_access.token = token.map(|(digest, _)| digest),
        Err(error) => context.errors.push(error),
    }
}

/// Warns of an admin listener that other hosts can use without a token.
fn check_admin_access(settings: &Settings, spans: &SettingSpans, context: &mut BuildContext) {
    let is_reachable = settings.admin.is_some_and(|admin| !admin.ip().is_loopback());
    if let Some(span) = spans.get(&("", "admin"))
        && is_reachable
        && settings.admin_access.token.is_none()
    {
        let warning = span.diagnostic("warning: other hosts can use the admin listener without a token");
        context.warnings.push(warning.with_help("set `admin_token`, or use 127.0.0.1"));
    }
}

/// Checks that the largest body fits into the memory for bodies.
fn check_limits(settings: &Settings, spans: &SettingSpans, context: &mut BuildContext) {
    let limits = &settings.limits;
    let span = spans.get(&("limits", "in_flight_bytes")).or_else(|| spans.get(&("limits", "body_bytes")));
    if let Some(span) = span.filter(|_| limits.in_flight_bytes < settings.scope.body_bytes) {
        let message = "`in_flight_bytes` is less than `body_bytes`: the largest body would never fit";
        context.errors.push(span.diagnostic(message));
    }
}
