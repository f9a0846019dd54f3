//! Layer 4: the HTTP server. It accepts connections, proxies requests, and serves its own answers and the admin API.

mod api;
mod connection;
mod control;
mod listener;
mod logs;
mod open_files;
mod proxy;
mod reload;
mod request;
mod response;
mod runtime_thread;
mod start_error;
mod startup;
mod state;

use response::error::RequestError;
pub use start_error::StartError;
pub use startup::Server;
pub use state::ConfigSource;
use state::{AppState, Lifecycle, WorkerContext};
