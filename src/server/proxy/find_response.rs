//! Finding a stored response that this router has not seen being made: each replica is asked in turn.

use http::Response;

use super::send::ProxyRequest;
use crate::fleet::{NoReplica, Outcome};
use crate::server::RequestError;
use crate::server::request::context::RequestContext;
use crate::server::response::body::BodySource;
use crate::upstream::UpstreamRequest;

/// Asks every replica of the site until one does not answer 404.
///
/// *Errors*: none has the response; 503 if one that could have it did not answer.
pub(in crate::server) async fn find_stored_response(
    trip: &ProxyRequest<'_>,
    mut out: UpstreamRequest,
    story: &mut RequestContext,
) -> Result<Response<BodySource>, RequestError> {
    let mut unanswered = None;
    let mut skipped = false;
    for pool in trip.route.virtual_host.pools() {
        let mut attempt = trip.new_acquire_request(story);
        while let Ok(lease) = pool.acquire(&attempt, story.now()) {
            attempt.tried.push(lease.replica().id());
            story.start_attempt(&lease, story.now());
            trip.prepare_for_replica(&mut out, &lease, (story, None));
            match trip.send(&out, &lease, story).await {
                Ok(answer) if answer.head.status == 404 => lease.settle(Outcome::Refused, story.now()),
                Ok(answer) => return Ok(trip.client_response(answer, lease)),
                Err(failure) => {
                    lease.settle(failure.outcome(), story.now());
                    unanswered = Some(failure);
                }
            }
        }
        skipped |= attempt.tried.len() < pool.replicas().len();
    }
    Err(match unanswered {
        Some(failure) => RequestError::from_send_error(&failure),
        None if skipped => RequestError::NoReplica(NoReplica::PinnedUnavailable),
        None => RequestError::UnknownResponse,
    })
}
