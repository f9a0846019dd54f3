//! `tokenweir emulate`: replicas without engines.

use super::{EmulateArgs, print_line, signals};
use crate::clock::Clock;
use crate::emulate::{self, EmulatorSettings};
use crate::engine::EngineModel;

/// Serves until told to stop.
pub(super) fn run(args: &EmulateArgs) -> Result<(), String> {
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(format!("--speed {} makes no sense: give a number above 0", args.speed));
    }
    let defaults = EmulatorSettings::default();
    let settings = EmulatorSettings {
        models: if args.model.is_empty() { defaults.models.clone() } else { args.model.clone() },
        engine_model: EngineModel { speed: args.speed, ..EngineModel::default() },
        echo: args.echo,
        ..defaults
    };
    let last = u32::from(args.port) + u32::from(args.count.max(1)) - 1;
    let serving = settings.models.join(", ");
    let message =
        format_args!("{} emulated replica(s) of {serving} at {}:{}..{last}", args.count, args.host, args.port);
    print_line(&mut std::io::stderr(), message);
    signals::block_on(emulate::serve_replicas(args.host, args.port, args.count, &settings, Clock::start()))
}
