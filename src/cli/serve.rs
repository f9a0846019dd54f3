//! `tokenweir serve`: the router.

use super::signals::Signals;
use super::{ServeArgs, check, load_config, print_line, signals};
use crate::server::Server;

/// Serves until told to stop.
pub(super) fn run(args: &ServeArgs) -> Result<(), String> {
    let loaded = load_config(&args.config, &args.urls)?;
    check::check_files(&loaded)?;
    let mut err = std::io::stderr();
    for warning in &loaded.warnings {
        print_line(&mut err, format_args!("{warning}"));
    }
    let drain = loaded.settings.timeouts.drain;
    let server = Server::start(loaded.settings).map_err(|error| error.to_string())?;
    if let Some(path) = args.config.clone() {
        server.set_config_source(Box::new(move || load_config(&Some(path.clone()), &[])));
    }
    let listening: Vec<String> = server.listen_addresses().iter().map(ToString::to_string).collect();
    let admin = server.admin_address().map(|admin| format!(", metrics at http://{admin}/metrics")).unwrap_or_default();
    signals::block_on(async {
        let signals = Signals::new()?;
        print_line(
            &mut err,
            format_args!("tokenweir {} at {}{admin}", env!("CARGO_PKG_VERSION"), listening.join(", ")),
        );
        signals::run_until_stopped(server, signals, drain).await
    })
}
