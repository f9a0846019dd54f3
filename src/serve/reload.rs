//! Reading the configuration again while requests run.

use super::App;
use crate::config::{Loaded, Settings};
use crate::discover;
use crate::telemetry::Level;
use crate::tls::Keyring;

/// Reads the configuration: its file and the environment.
pub type Source = Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// Replaces the configuration by what its source says now. Requests that run keep what they began with.
///
/// *Errors*: there is no source, or what it says is bad. Nothing has changed then, and the log says why.
pub(super) async fn reload(app: &App) -> Result<String, String> {
    let told = replace(app).await;
    match &told {
        Ok(changes) => app.errors.write(Level::Info, format_args!("reloaded, changed: {changes}")),
        Err(why) => app.errors.write(Level::Error, format_args!("not reloaded, nothing changed: {why}")),
    }
    told
}

async fn replace(app: &App) -> Result<String, String> {
    let source = app.source.get().ok_or("the replicas were given as arguments, there is no file to read again")?;
    let loaded = source()?;
    let keyring = Keyring::read(&loaded.settings.tls, &loaded.settings.pools)
        .map_err(|bad| loaded.blame(&bad.path, bad.to_string(), &bad.help).to_string())?;
    let Loaded { settings, warnings, .. } = loaded;
    let kept = fixed(&app.settings(), &settings);
    // Nobody is let in before they have said what they serve, and nobody leaves before that.
    discover::greet(app.fleet.announce(&settings.pools), &keyring).await;
    // The first request to a new replica needs it.
    let old = app.keyring.load_full();
    app.keyring.store(keyring.after(&old).into());
    let changes = app.fleet.reload(settings.pools.clone()).map_err(|bad| {
        app.keyring.store(old);
        bad.to_string()
    })?;
    app.settings.store(settings.into());
    app.changed.notify_one();
    let mut told = vec![changes.to_string()];
    told.extend(kept.into_iter().map(|key| format!("`{key}` takes effect after a restart")));
    told.extend(warnings.iter().map(ToString::to_string));
    Ok(told.join("; "))
}

/// The keys that differ and are read only at the start.
fn fixed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let differ = [
        ("listen", old.listen != new.listen),
        ("admin", old.admin != new.admin),
        ("workers", old.workers != new.workers),
        ("log", old.log != new.log),
        ("limits.in_flight_bytes", old.limits.in_flight_bytes != new.limits.in_flight_bytes),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
