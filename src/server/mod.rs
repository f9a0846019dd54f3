//! Layer 4: the HTTP server.
//!
//! The path of a request: `listener` accepts the connection, `connection` speaks HTTP on it, `request` validates,
//! authenticates, routes and reads the request, `proxy` sends it to a replica, `response` shapes the answer.
//! `api` answers what needs no replica. `startup` starts the threads, `control` works in the background, `reload`
//! replaces the configuration, and `state` is shared by all.

mod admin_sessions;
mod api;
mod connection;
mod control;
mod listener;
mod live;
mod logs;
mod open_files;
mod proxy;
mod reload;
mod request;
mod request_log;
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
