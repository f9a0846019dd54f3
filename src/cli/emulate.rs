//! `tokenweir emulate`: replicas without engines.

use super::{Emulate, stop, tell};
use crate::clock::Clock;
use crate::emulate::{self, Settings};
use crate::engine::Constants;

/// Serves until told to stop.
pub(super) fn run(args: &Emulate) -> Result<(), String> {
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(format!("--speed {} makes no sense: give a number above 0", args.speed));
    }
    let defaults = Settings::default();
    let settings = Settings {
        models: if args.model.is_empty() { defaults.models.clone() } else { args.model.clone() },
        constants: Constants { speed: args.speed, ..Constants::default() },
        echo: args.echo,
        ..defaults
    };
    let last = u32::from(args.port) + u32::from(args.count.max(1)) - 1;
    let serving = settings.models.join(", ");
    let message =
        format_args!("{} emulated replica(s) of {serving} at {}:{}..{last}", args.count, args.host, args.port);
    tell(&mut std::io::stderr(), message);
    stop::block_on(emulate::run(args.host, args.port, args.count, &settings, Clock::start()))
}
