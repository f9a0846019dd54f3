//! Reading the configuration again while requests run.

use super::App;
use crate::config::{Loaded, Settings};
use crate::discover;
use crate::telemetry::Level;

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
    let Loaded { settings, warnings } = source()?;
    let kept = fixed(&app.settings(), &settings);
    // Nobody is let in before they have said what they serve, and nobody leaves before that.
    discover::greet(app.fleet.announce(&settings.pools)).await;
    let changes = app.fleet.reload(settings.pools.clone()).map_err(|bad| bad.to_string())?;
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
