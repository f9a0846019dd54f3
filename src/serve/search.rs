//! Finding a stored response that this router has not seen being made: each replica is asked in turn.

use http::Response;

use super::Refusal;
use super::reply::Source;
use super::story::Story;
use super::trip::Trip;
use crate::fleet::{NoReplica, Outcome};
use crate::upstream::Outbound;

/// Asks every replica of the site until one does not answer 404.
///
/// *Errors*: none has the response; 503 if one that could have it did not answer.
pub(super) async fn search(trip: &Trip<'_>, mut out: Outbound, story: &mut Story) -> Result<Response<Source>, Refusal> {
    let mut unanswered = None;
    let mut skipped = false;
    for pool in trip.call.site.pools() {
        let mut attempt = trip.attempt(story);
        while let Ok(lease) = pool.acquire(&attempt, story.now()) {
            attempt.tried.push(lease.replica().id());
            story.tries(&lease, story.now());
            trip.address(&mut out, &lease, (story, None));
            match trip.send(&out, &lease, story).await {
                Ok(answer) if answer.head.status == 404 => lease.settle(Outcome::Refused, story.now()),
                Ok(answer) => return Ok(trip.relay(answer, lease)),
                Err(failure) => {
                    lease.settle(failure.outcome(), story.now());
                    unanswered = Some(failure);
                }
            }
        }
        skipped |= attempt.tried.len() < pool.replicas().len();
    }
    Err(match unanswered {
        Some(failure) => Refusal::lost(&failure),
        None if skipped => Refusal::NoReplica(NoReplica::PinnedGone),
        None => Refusal::UnknownResponse,
    })
}
