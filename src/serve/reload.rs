//! Reading the configuration again while requests run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::doors::Doors;
use super::start::open;
use super::{App, StartError};
use crate::config::{Loaded, Settings};
use crate::discover;
use crate::fleet::Changes;
use crate::telemetry::{AccessLog, Level, Writer};
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
        Ok(changes) => app.errors.tell(Level::Info, format_args!("reloaded, changed: {changes}")),
        Err(why) => app.errors.tell(Level::Error, format_args!("not reloaded, nothing changed: {why}")),
    }
    told
}

async fn replace(app: &App) -> Result<Reloaded, String> {
    let source = app.source.get().ok_or("the replicas were given as arguments, there is no file to read again")?;
    let loaded = source()?;
    let keyring = Keyring::read(&loaded.settings.tls, &loaded.settings.pools)
        .map_err(|bad| loaded.blame(&bad.path, bad.to_string(), &bad.help).to_string())?;
    let Loaded { settings, warnings, .. } = loaded;
    let before = app.settings();
    let kept = fixed(&before, &settings);
    let doors = Doors::prepare(&before.listen, &settings.listen).map_err(|bad| bad.to_string())?;
    let logs = Logs::prepare(&before, &settings).map_err(|bad| bad.to_string())?;
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
    if let Some(logs) = logs {
        logs.take_over(app);
    }
    app.decisions.resize(settings.explain);
    app.settings.store(settings.into());
    if let Some(way) = app.doors.get() {
        way.change(doors);
    }
    app.changed.notify_one();
    app.reloaded.notify_one();
    let kept = kept.into_iter().map(|key| format!("`{key}` takes effect after a restart"));
    Ok(Reloaded { changes, notes: kept.chain(warnings.iter().map(ToString::to_string)).collect() })
}

/// Logs that are open and not written to yet.
struct Logs {
    access: Option<AccessLog>,
    errors: Option<Writer>,
    level: Level,
}

impl Logs {
    /// Opens both logs if anything about them has changed.
    ///
    /// *Errors*: one cannot be opened.
    fn prepare(old: &Settings, new: &Settings) -> Result<Option<Self>, StartError> {
        if old.log == new.log {
            return Ok(None);
        }
        let access = open(&new.log.access)?.map(|writer| AccessLog::new(writer, new.log.format.clone()));
        Ok(Some(Self { access, errors: open(&new.log.error)?, level: new.log.level }))
    }

    fn take_over(self, app: &App) {
        let before = app.access.swap(self.access.map(Arc::new));
        let lost = before.map_or(0, |log| log.lost()) + app.errors.replace(self.errors, self.level);
        app.lines_lost.fetch_add(lost, Ordering::Relaxed);
    }
}

/// The keys that differ and are read only at the start.
fn fixed(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let differ = [
        ("admin", old.admin != new.admin),
        ("workers", old.workers != new.workers),
        ("record", old.record != new.record),
        ("limits.in_flight_bytes", old.limits.in_flight_bytes != new.limits.in_flight_bytes),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
