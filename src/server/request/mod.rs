//! The request as the client sent it: its client, target and body, and the limits it counts against.

pub(super) mod auth;
mod azure;
pub(super) mod body;
pub(super) mod body_buffer;
pub(super) mod client;
pub(super) mod concurrency;
pub(super) mod context;
pub(super) mod cors;
pub(super) mod forward_headers;
pub(super) mod parse;
pub(super) mod route;
pub(super) mod routed_head;
pub(super) mod validate;
pub(super) mod websocket;
