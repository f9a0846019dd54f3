//! The response to the client: errors, bodies, framing, compression and headers.

pub(super) mod answer;
pub(super) mod body;
pub(super) mod error;
pub(super) mod framing;
pub(super) mod gzip;
pub(super) mod headers;
