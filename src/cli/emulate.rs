//! `tokenweir emulate`: runs emulated replicas.

use super::args::EmulateArgs;
use super::output::print_error;
use super::signals;
use crate::clock::Clock;
use crate::emulate::{self, EmulatorSettings};
use crate::engine::EngineModel;

/// Serves until the process is ended.
///
/// *Errors*: an argument is wrong, or a port cannot be used.
pub(super) fn run(args: &EmulateArgs) -> Result<(), String> {
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(format!("--speed cannot be {}: it takes a number above 0", args.speed));
    }
    let defaults = EmulatorSettings::default();
    let settings = EmulatorSettings {
        models: if args.model.is_empty() { defaults.models.clone() } else { args.model.clone() },
        engine_model: EngineModel { speed: args.speed, ..EngineModel::default() },
        stop_after: args.stop_after,
        echo: args.echo,
        ..defaults
    };
    let last = u32::from(args.port) + u32::from(args.count.max(1)) - 1;
    let models = settings.models.join(", ");
    print_error(format_args!("{} emulated replica(s) of {models} at {}:{}..{last}", args.count, args.host, args.port));
    signals::block_on(emulate::serve_replicas(args.host, args.port, args.count, &settings, Clock::start()))
}
