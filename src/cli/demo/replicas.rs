//! The demo's emulated replicas.

use std::net::{Ipv4Addr, TcpListener};

use crate::clock::Clock;
use crate::emulate::{self, EmulatedReplica};
use crate::engine::EngineModel;

/// The replicas by speed: a newer GPU, the one that the engine's model is of, and an older one.
pub(super) const REPLICA_SPEEDS: [(&str, f64); 3] = [("fast", 2.0), ("normal", 1.0), ("slow", 0.5)];
/// The model of all replicas.
pub(super) const MODEL_NAME: &str = "emulated-8b";

/// Returns a listener on a free port.
pub(super) fn bind_free_port() -> Result<TcpListener, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("cannot start an emulated replica: {error}"))
}

/// Starts a replica of this speed.
pub(super) fn start_replica(listener: TcpListener, speed: f64) -> Result<EmulatedReplica, String> {
    let failure = |error| format!("cannot start an emulated replica: {error}");
    let engine_model = EngineModel { speed, ..EngineModel::default() };
    let settings = emulate::EmulatorSettings {
        models: vec![MODEL_NAME.to_owned()],
        engine_model,
        ..emulate::EmulatorSettings::default()
    };
    EmulatedReplica::start(listener, settings, Clock::start()).map_err(failure)
}
