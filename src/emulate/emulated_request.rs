//! A request to an emulated replica.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use serde_json::Value;

use super::api_error::ApiError;
use super::faults::EmulatedFault;
use super::faulty_socket::SocketFault;
use super::state::ReplicaState;

/// A request that was read completely.
#[derive(Debug)]
pub(super) struct EmulatedRequest {
    pub(super) replica: Arc<ReplicaState>,
    pub(super) peer_addr: SocketAddr,
    pub(super) socket_fault: Arc<SocketFault>,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The client's `X-Request-Id`, or a new id.
    pub(super) request_id: String,
    /// The fault that the request meets.
    pub(super) fault: Option<EmulatedFault>,
}

impl EmulatedRequest {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn header_number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// Parses the body as a JSON object, as strictly as vLLM.
    ///
    /// *Errors*: another content type, no JSON, or no object.
    pub(super) fn parse_json_body(&self) -> Result<Value, ApiError> {
        match self.header("content-type") {
            Some(kind) if !kind.starts_with("application/json") => Err(ApiError::unsupported_content_type()),
            _ => parse_object(&self.body),
        }
    }
}

fn parse_object(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::validation_error("missing", "body", "Field required"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let column = error.column();
        ApiError::validation_error("json_invalid", &format!("body.{column}"), "JSON decode error")
    })?;
    if !value.is_object() {
        let message = "Input should be a valid dictionary or object to extract fields from";
        return Err(ApiError::validation_error("model_attributes_type", "body", message));
    }
    Ok(value)
}
