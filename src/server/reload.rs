//! Reading the configuration again while requests run.

use std::fmt;

use super::AppState;
use super::listener::handle::ListenerHandle;
use super::logs::PreparedLogs;
use crate::config::{LoadedConfig, Settings};
use crate::discover;
use crate::fleet::ReloadDiff;
use crate::telemetry::LogLevel;
use crate::tls::TlsStore;

/// What a reload has come to.
pub(super) struct ReloadReport {
    pub(super) changes: ReloadDiff,
    /// What takes effect later, and what looks odd.
    pub(super) notes: Vec<String>,
}

impl fmt::Display for ReloadReport {
    /// One line, unless a warning shows its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.fmt(f)?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Replaces the configuration by what its source says now. Requests that run keep what they began with.
///
/// *Errors*: there is no source, or what it says is bad. Nothing has changed then, and the log says why.
pub(super) async fn reload(app: &AppState) -> Result<ReloadReport, String> {
    let told = apply_config(app).await;
    match &told {
        Ok(changes) => app.logs.error.write_unlimited(LogLevel::Info, format_args!("reloaded, changed: {changes}")),
        Err(why) => {
            app.logs.error.write_unlimited(LogLevel::Error, format_args!("not reloaded, nothing changed: {why}"));
        }
    }
    told
}

async fn apply_config(app: &AppState) -> Result<ReloadReport, String> {
    let source = app
        .control
        .config_source
        .get()
        .ok_or("the replicas were given as arguments, there is no file to read again")?;
    let loaded = source()?;
    let keyring = TlsStore::read(&loaded.settings.tls, &loaded.settings.pools)
        .map_err(|bad| loaded.file_error(&bad.path, bad.to_string(), &bad.help).to_string())?;
    let LoadedConfig { settings, warnings, .. } = loaded;
    let before = app.settings();
    let kept = restart_only_changes(&before, &settings);
    let doors = ListenerHandle::bind_new(&before.listen, &settings.listen).map_err(|bad| bad.to_string())?;
    let logs = PreparedLogs::prepare(&before, &settings).map_err(|bad| bad.to_string())?;
    // Nobody is let in before they have said what they serve, and nobody leaves before that.
    app.dns_names.resolve_new(&settings.pools, &settings.dns).await;
    let pools = app.dns_names.expand_members(&settings.pools);
    discover::probe_new(app.fleet.prepare_replicas(&pools), &keyring).await;
    // The first request to a new replica needs it.
    let old = app.tls_store.load_full();
    app.tls_store.store(keyring.inherit_from(&old).into());
    let changes = app.fleet.reload(pools).map_err(|bad| {
        app.tls_store.store(old);
        bad.to_string()
    })?;
    if let Some(logs) = logs {
        app.logs.replace(logs);
    }
    app.logs.decisions.resize(settings.explain);
    app.settings.store(settings.into());
    if let Some(way) = app.control.listeners.get() {
        way.apply(doors);
    }
    app.control.replicas_changed.notify_one();
    app.control.config_reloaded.notify_one();
    let kept = kept.into_iter().map(|key| format!("`{key}` takes effect after a restart"));
    Ok(ReloadReport { changes, notes: kept.chain(warnings.iter().map(ToString::to_string)).collect() })
}

/// The keys that differ and are read only at the start.
fn restart_only_changes(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let differ = [
        ("admin", old.admin != new.admin),
        ("workers", old.workers != new.workers),
        ("record", old.record != new.record),
        ("limits.in_flight_bytes", old.limits.in_flight_bytes != new.limits.in_flight_bytes),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
