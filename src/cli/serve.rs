//! `tokenweir serve`: the router.

use super::stop::Signals;
use super::{Serve, check, load, stop, tell};
use crate::serve::Server;

/// Serves until told to stop.
pub(super) fn run(args: &Serve) -> Result<(), String> {
    let loaded = load(&args.config, &args.urls)?;
    check::files(&loaded)?;
    let mut err = std::io::stderr();
    for warning in &loaded.warnings {
        tell(&mut err, format_args!("{warning}"));
    }
    let drain = loaded.settings.timeouts.drain;
    let server = Server::start(loaded.settings).map_err(|error| error.to_string())?;
    if let Some(path) = args.config.clone() {
        server.reloads_from(Box::new(move || load(&Some(path.clone()), &[])));
    }
    let listening: Vec<String> = server.listening().iter().map(ToString::to_string).collect();
    let admin = server.admin().map(|admin| format!(", metrics at http://{admin}/metrics")).unwrap_or_default();
    stop::block_on(async {
        let signals = Signals::new()?;
        tell(&mut err, format_args!("tokenweir {} at {}{admin}", env!("CARGO_PKG_VERSION"), listening.join(", ")));
        stop::wait(server, signals, drain).await
    })
}
