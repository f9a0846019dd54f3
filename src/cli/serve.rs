//! `tokenweir serve`: runs the router.

use super::args::ServeArgs;
use super::check::print_report;
use super::config_source::{check_files, load_file, load_urls};
use super::output::print_error;
use super::signals::{self, Signals};
use crate::server::Server;

/// Serves until a signal ends the process; with `--test`, only checks the configuration.
///
/// *Errors*: the configuration is wrong, or the server cannot start.
pub(super) fn run(args: &ServeArgs) -> Result<(), String> {
    let loaded = match &args.config {
        Some(path) => load_file(path)?,
        None => load_urls(&args.urls)?,
    };
    if args.test {
        return print_report(&loaded);
    }
    check_files(&loaded)?;
    for warning in &loaded.warnings {
        print_error(warning);
    }
    let drain = loaded.settings.scope.timeouts.drain;
    let server = Server::start(loaded.settings).map_err(|error| error.to_string())?;
    if let Some(path) = args.config.clone() {
        server.set_config_source(Box::new(move || load_file(&path)));
    }
    let listening: Vec<String> = server.listen_addresses().iter().map(ToString::to_string).collect();
    let admin = server.admin_address().map(|admin| format!(", metrics at http://{admin}/metrics")).unwrap_or_default();
    signals::block_on(async {
        let signals = Signals::new()?;
        print_error(format_args!("tokenweir {} at {}{admin}", env!("CARGO_PKG_VERSION"), listening.join(", ")));
        signals::run_until_stopped(server, signals, drain).await
    })
}
