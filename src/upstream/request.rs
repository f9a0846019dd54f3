//! A request as it goes to a replica.

use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body::Body as _;

use super::request_body::RequestBody;
use crate::dialect::Dialect;
use crate::fleet::Origin;
use crate::units::Moment;

/// A request as it goes to a replica.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The method.
    pub method: Method,
    /// Path and query, `/v1/...`, without the replica's path prefix.
    pub path: String,
    /// Headers without the hop-by-hop ones. `Content-Length` is added on sending, and the replica's authority as `Host`
    /// unless there is one.
    pub headers: HeaderMap,
    /// hyper's record of how the client has spelled the headers' names; empty unless their spelling is kept.
    pub extensions: Extensions,
    /// The body.
    pub body: RequestBody,
    /// What is known of the response beforehand.
    pub expectations: ResponseExpectations,
}

/// What is known of a response before it arrives.
#[derive(Clone, Copy, Debug)]
pub struct ResponseExpectations {
    /// The format of the response.
    pub dialect: Dialect,
    /// Whether a JSON response is held until it is complete, so that another replica can still be tried.
    pub buffer_json: bool,
    /// Whether the names of headers keep their spelling.
    pub preserve_header_case: bool,
    /// Whether the client has asked for a stream; otherwise the first byte may come when all has been generated.
    pub wants_stream: bool,
    /// Whether the replica may switch to another protocol, with status 101.
    pub may_upgrade: bool,
    /// When the response must be complete; `None` for no limit.
    pub total_deadline: Option<Moment>,
}

impl UpstreamRequest {
    /// Returns the request as it is written to a connection to `origin`.
    pub(super) fn for_origin(&self, origin: &Origin) -> Request<RequestBody> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        // `path` was part of a valid URI and the prefix is part of a configured one, so neither can fail.
        *request.uri_mut() = match origin.path_prefix() {
            "" => Uri::try_from(self.path.as_str()),
            prefix => Uri::try_from(format!("{prefix}{}", self.path)),
        }
        .unwrap_or_default();
        if !self.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::try_from(origin.authority())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        // hyper sends no length for an empty body, and simple servers require one: RFC 9110, section 8.6.
        if self.body.is_end_stream() && matches!(self.method, Method::POST | Method::PUT | Method::PATCH) {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        request
    }
}
