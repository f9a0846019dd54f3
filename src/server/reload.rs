//! Replaces the configuration while requests are under way.

use std::collections::BTreeSet;
use std::fmt;

use super::AppState;
use super::listener::handle::ListenerUpdate;
use crate::config::{LoadedConfig, Settings};
use crate::discover;
use crate::fleet::{FleetSpec, ReloadDiff};
use crate::telemetry::LogLevel;
use crate::tls::TlsStore;

/// The most changed routes that a report names.
const MAX_ROUTE_CHANGES: usize = 20;

/// The effects of a reload.
pub(super) struct ReloadReport {
    pub(super) changes: ReloadDiff,
    /// Lines of routes that are new, each after `+`, or gone, after `-`.
    pub(super) route_changes: Vec<String>,
    /// Keys that need a restart, and the warnings of the configuration.
    pub(super) notes: Vec<String>,
}

impl ReloadReport {
    /// Returns the changes in one line; `nothing` if nothing has changed.
    pub(super) fn changes_text(&self) -> String {
        let mut parts = Vec::new();
        if !self.changes.is_empty() || self.route_changes.is_empty() {
            parts.push(self.changes.to_string());
        }
        parts.extend(self.route_changes.iter().take(MAX_ROUTE_CHANGES).cloned());
        let more = self.route_changes.len().saturating_sub(MAX_ROUTE_CHANGES);
        if more > 0 {
            parts.push(format!("and {more} more routes (`tokenweir check --routes` lists them)"));
        }
        parts.join("; ")
    }
}

impl fmt::Display for ReloadReport {
    /// Writes one line, unless a warning quotes the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.changes_text())?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Reads the configuration again and replaces the present one. Requests under way keep the one that they started with.
///
/// *Errors*: there is no source, or the new configuration is invalid. Nothing has changed then. The error log reports
/// either result.
pub(super) async fn reload(app: &AppState) -> Result<ReloadReport, String> {
    let result = apply_config(app).await;
    let log = &app.logs.error;
    match &result {
        Ok(report) => log.write_unlimited(LogLevel::Info, format_args!("reloaded, changed: {report}")),
        Err(cause) => log.write_unlimited(LogLevel::Error, format_args!("not reloaded, nothing changed: {cause}")),
    }
    result
}

async fn apply_config(app: &AppState) -> Result<ReloadReport, String> {
    let source = app.control.config_source.get();
    let source = source.ok_or("no configuration file to read again: the replicas were given as arguments")?;
    let loaded = source()?;
    let new_tls = TlsStore::read(&loaded.settings.tls, &loaded.settings.routes, &loaded.settings.pools)
        .map_err(|error| loaded.file_error(&error.path, error.to_string(), &error.help).to_string())?;
    let LoadedConfig { settings: new, warnings, .. } = loaded;
    let old = app.settings();
    let restart_notes = restart_only_changes(&old, &new);
    let route_changes = changed_routes(&old, &new);
    let listeners = ListenerUpdate::prepare(&old.listen, &new.listen).map_err(|error| error.to_string())?;
    let logs = app.logs.prepare(&old, &new).map_err(|error| error.to_string())?;
    // New replicas report their models before they join, and removed ones leave at the same time, in one step.
    app.dns_names.resolve_new(&new.pools, &new.dns).await;
    let pools = app.dns_names.expand_members(&new.pools);
    discover::probe_new(app.fleet.prepare_replicas(&pools), &new_tls).await;
    // Set before the pools: the first request to a new replica needs it.
    let old_tls = app.tls_store.load_full();
    app.tls_store.store(new_tls.inherit_from(&old_tls).into());
    let fleet = FleetSpec { pools, routes: new.routes.clone() };
    let old_access_logs = app.logs.add_access_logs(&logs);
    let changes = app.fleet.reload(fleet).map_err(|error| {
        app.tls_store.store(old_tls);
        app.logs.access.store(old_access_logs);
        error.to_string()
    })?;
    app.logs.replace(logs);
    app.logs.decisions.resize(new.explain);
    let token_changed = old.admin_access.token != new.admin_access.token;
    app.settings.store(new.into());
    if token_changed {
        app.admin_sessions.end_all();
    }
    if let Some(handle) = app.control.listeners.get() {
        handle.apply(listeners);
    }
    app.control.replicas_changed.notify_one();
    app.control.config_reloaded.notify_one();
    let warnings = warnings.iter().map(ToString::to_string);
    Ok(ReloadReport { changes, route_changes, notes: restart_notes.chain(warnings).collect() })
}

/// Returns the lines of routes that are gone and of those that are new.
fn changed_routes(old: &Settings, new: &Settings) -> Vec<String> {
    let lines =
        |settings: &Settings| -> BTreeSet<String> { settings.route_lines().iter().map(ToString::to_string).collect() };
    let (before, after) = (lines(old), lines(new));
    let gone = before.difference(&after).map(|line| format!("- {line}"));
    gone.chain(after.difference(&before).map(|line| format!("+ {line}"))).collect()
}

/// Returns a note for each changed key that is read at the start only.
fn restart_only_changes(old: &Settings, new: &Settings) -> impl Iterator<Item = String> + use<> {
    let keys = [
        ("admin", old.admin != new.admin),
        ("workers", old.workers != new.workers),
        ("record", old.record != new.record),
        ("limits.in_flight_bytes", old.limits.in_flight_bytes != new.limits.in_flight_bytes),
    ];
    let changed = keys.into_iter().filter(|(_, is_changed)| *is_changed);
    changed.map(|(key, _)| format!("`{key}` takes effect after a restart"))
}
