//! Requests from clients and responses to them, byte for byte.

mod api_keys;
mod client_disconnect;
mod client_limits;
mod endpoints;
mod gzip;
mod headers;
mod host_certificates;
mod http10;
mod protocol;
mod relay;
mod route_timeouts;
mod stream_errors;
mod streaming;
mod timeouts;
mod tls;
mod usage_injection;
