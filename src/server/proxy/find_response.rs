//! The search for a stored response without a known owner: each replica is asked in turn.

use http::{Response, StatusCode};

use super::pool_request::{PinSource, PolicyKeys, PoolOptions, PoolRequest};
use super::send::ProxyRequest;
use crate::fleet::{NoReplica, Outcome};
use crate::server::RequestError;
use crate::server::request_log::RequestLog;
use crate::server::response::body::BodySource;
use crate::upstream::UpstreamRequest;

/// Asks every replica of the virtual host until one does not respond with 404.
///
/// *Errors*: no replica has the response, or one that may have it is not available or has not responded.
pub(super) async fn find_stored_response(
    request: &ProxyRequest<'_>,
    mut upstream_request: UpstreamRequest,
    log: &mut RequestLog,
) -> Result<Response<BodySource>, RequestError> {
    let mut last_error = None;
    let mut has_skipped = false;
    let keys = PolicyKeys::default();
    for pool in request.route.routed.pools() {
        let model = request.parsed.model.as_deref();
        let options = PoolOptions { model, pin: PinSource::None, tried: Vec::new() };
        let mut pool_request = PoolRequest::new(request, pool, &keys, options);
        while let Ok(lease) = pool_request.acquire() {
            pool_request.mark_tried(&lease);
            log.start_attempt(&lease);
            request.prepare_for_replica(&mut upstream_request, &lease, log, None);
            match request.send(&upstream_request, &lease, log).await {
                Ok(response) if response.head.status == StatusCode::NOT_FOUND => {
                    lease.settle(Outcome::Refused, log.now());
                }
                Ok(response) => return Ok(request.client_response(response, lease)),
                Err(error) => {
                    lease.settle(error.outcome(), log.now());
                    last_error = Some(error);
                }
            }
        }
        has_skipped |= pool_request.into_tried().len() < pool.replicas().len();
    }
    Err(match last_error {
        Some(error) => RequestError::from_send_error(&error),
        None if has_skipped => RequestError::NoReplica(NoReplica::PinnedUnavailable),
        None => RequestError::UnknownResponse,
    })
}
