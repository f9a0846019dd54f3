//! Settings of an emulated replica.

use std::time::Duration;

use crate::engine::EngineModel;

/// Settings of an emulated replica.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorSettings {
    /// Names of its models; requests without one get the first.
    pub models: Vec<String>,
    /// The model of its engine.
    pub engine_model: EngineModel,
    /// Longest prompt and output together, in tokens.
    pub max_model_len: u64,
    /// Length at which an answer ends by itself, in tokens. `None`: only at the request's bound, else at the default.
    pub stop_after: Option<u64>,
    /// Time after which an idle connection is closed.
    pub keepalive_timeout: Duration,
    /// Whether every request is echoed to its client instead of emulated.
    pub echo: bool,
}

impl Default for EmulatorSettings {
    fn default() -> Self {
        Self {
            models: vec!["emulated-8b".to_owned()],
            engine_model: EngineModel::default(),
            max_model_len: 131_072,
            stop_after: None,
            keepalive_timeout: Duration::from_secs(5),
            echo: false,
        }
    }
}
