//! Reading the configuration again while requests run.

use std::fmt;

use super::App;
use crate::config::{Loaded, Settings};
use crate::discover;
use crate::fleet::Changes;
use crate::telemetry::Level;
use crate::tls::Keyring;

/// Reads the configuration: its file and the environment.
pub type Source = Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// What a reload has come to.
pub(super) struct Reloaded {
    pub(super) changes: Changes,
    /// What takes effect later, and what looks odd.
    pub(super) notes: Vec<String>,
}

impl fmt::Display for Reloaded {
    /// One line, unless a warning shows its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.fmt(f)?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Replaces the configuration by what its source says now. Requests that run keep what they began with.
///
/// *Errors*: there is no source, or what it says is bad. Nothing has changed then, and the log says why.
pub(super) async fn reload(app: &App) -> Result<Reloaded, String> {
    let told = replace(app).await;
    match &told {
        Ok(changes) => app.errors.write(Level::Info, format_args!("reloaded, changed: {changes}")),
        Err(why) => app.errors.write(Level::Error, format_args!("not reloaded, nothing changed: {why}")),
    }
    told
}

async fn replace(app: &App) -> Result<Reloaded, String> {
    let source = app.source.get().ok_or("the replicas were given as arguments, there is no file to read again")?;
    let loaded = source()?;
    let keyring = Keyring::read(&loaded.settings.tls, &loaded.settings.pools)
        .map_err(|bad| loaded.blame(&bad.path, bad.to_string(), &bad.help).to_string())?;
    let Loaded { settings, warnings, .. } = loaded;
    let kept = fixed(&app.settings(), &settings);
    // Nobody is let in before they have said what they serve, and nobody leaves before that.
    app.names.meet(&settings.pools, &settings.dns).await;
    let pools = app.names.expand(&settings.pools);
    discover::greet(app.fleet.announce(&pools), &keyring).await;
    // The first request to a new replica needs it.
    let old = app.keyring.load_full();
    app.keyring.store(keyring.after(&old).into());
    let changes = app.fleet.reload(pools).map_err(|bad| {
        app.keyring.store(old);
        bad.to_string()
    })?;
    app.settings.store(settings.into());
    app.changed.notify_one();
    app.reloaded.notify_one();
    let kept = kept.into_iter().map(|key| format!("`{key}` takes effect after a restart"));
    Ok(Reloaded { changes, notes: kept.chain(warnings.iter().map(ToString::to_string)).collect() })
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
