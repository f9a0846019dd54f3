//! THE path of a proxied request: accept, identify, measure, choose and charge, forward, observe, settle.

use http::header;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use super::admission::lead;
use super::body::gather;
use super::key::Facts;
use super::measure::{Reading, measure};
use super::reply::Source;
use super::search::search;
use super::story::Story;
use super::target::Call;
use super::tries::{Tries, Verdict};
use super::trip::Trip;
use super::{Refusal, Worker, identify};
use crate::fleet::{Attempt, Phase, Pin};
use crate::telemetry::Level;
use crate::units::Dialect;
use crate::upstream::{Errand, Outbound, OutboundBody};

/// Sends a request to a replica and returns its answer as it begins.
///
/// *Errors*: the request is at fault, no replica can be chosen, or those that were gave no answer.
pub(super) async fn proxy(
    worker: &Worker,
    request: Request<Incoming>,
    call: &Call,
    story: &mut Story,
) -> Result<Response<Source>, Refusal> {
    let app = &worker.app;
    let settings = story.settings.clone();
    let (head, body) = request.into_parts();
    let body = gather(body, &head.headers, &app.budget, &settings.limits, settings.timeouts.body).await?;
    let complete = app.clock.now();
    story.gathered(body.bytes.len());
    let mut asked = measure(Reading::of(call, app), &head.headers, &body.bytes).await?;
    story.model.clone_from(&asked.model);
    let (pool, owner) = lead(app, call, &asked, story, complete)?;
    if let Some((place, pool)) = story.place.as_mut().zip(pool.as_ref()) {
        place.join(app, &settings.limits, pool)?;
    }
    if let Some(vocabulary) = pool.as_ref().and_then(|pool| pool.spec().metering.tokens.as_ref()) {
        asked.count(vocabulary, &body.bytes, &app.counting).await;
    }
    let authorization = head.headers.get(header::AUTHORIZATION).filter(|_| !story.caller.known).cloned();
    let mut out = outbound(&head, call, story);
    out.errand.until = settings.timeouts.until(complete);
    let plain = settings.headers.on_requests().then(|| out.headers.clone());
    let trip = Trip { worker, settings: &settings, call, asked: &asked, body: &body.bytes, authorization, plain };
    let Some(pool) = pool else { return search(&trip, out, story).await };
    story.enters(&pool);
    let pinned = owner.as_ref().map(|owner| Pin::Only(owner.replica));
    let attempt = Attempt { pinned, ..trip.attempt(story) };
    let facts = Facts { head: &head, asked: &asked, client: story.caller.client };
    let mut tries = Tries::new(app, pool, attempt, facts);
    let mut lease = tries.admit()?;
    loop {
        story.tries(&lease, complete);
        match trip.ask(&mut out, &lease, story).await {
            Ok(mut answer) => match tries.judge(&mut answer, lease) {
                Verdict::Relay(lease) => {
                    let cookie = tries.bind(&answer, &lease);
                    let mut response = trip.relay(answer, lease);
                    if let Some(cookie) = cookie {
                        response.headers_mut().append(header::SET_COOKIE, cookie);
                    }
                    return Ok(response);
                }
                Verdict::Again(next) => {
                    story.complain(Level::Warn, Phase::FirstByte, &answer.trouble());
                    lease = next;
                }
            },
            Err(failure) => {
                tries.lost(failure, lease)?;
                lease = tries.admit()?;
            }
        }
    }
}

/// The request as it goes to whichever replica, but for its body.
fn outbound(head: &Parts, call: &Call, story: &Story) -> Outbound {
    Outbound {
        headers: identify::forward(head, story.caller, &story.id, call.dialect != Dialect::Other),
        method: head.method.clone(),
        path: call.path.clone(),
        body: OutboundBody::default(),
        errand: Errand { dialect: call.dialect, holds_json: call.judged, until: None },
    }
}
