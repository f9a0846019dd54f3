//! Floor 3: configuration.
mod settings;
pub use settings::{BadListen, Cors, Format, Limits, Listen, Log, Settings, Sink, Timeouts};
