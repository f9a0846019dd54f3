//! One request's way to whichever replica is tried, and the answer's way back.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::measure::Asked;
use super::owners::Owner;
use super::reply::Source;
use super::story::Story;
use super::target::Call;
use super::{Worker, identify};
use crate::balance::Job;
use crate::config::Settings;
use crate::fleet::{Attempt, Beside, Lease};
use crate::prompt::{Edit, splice};
use crate::units::{Dialect, Timing, Tokens};
use crate::upstream::{Answer, Failure, Outbound, Relayed, is_stream};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What stays the same over all attempts of one request.
pub(super) struct Trip<'a> {
    pub(super) worker: &'a Worker,
    pub(super) settings: &'a Settings,
    pub(super) call: &'a Call,
    pub(super) asked: &'a Asked,
    pub(super) body: &'a Bytes,
    /// The client's own `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
    /// The headers before a pool sets its own; `None` if none does.
    pub(super) plain: Option<HeaderMap>,
}

impl<'a> Trip<'a> {
    /// The first try of this request.
    pub(super) fn attempt(&self, story: &Story) -> Attempt<'a> {
        let decisions = &self.worker.app.decisions;
        let kept = (decisions.most() > 0).then(|| (decisions.clone(), story.id.as_str().into()));
        Attempt {
            job: Job {
                prompt: Tokens(0),
                output: Tokens(0),
                key: b"",
                client: story.caller.client.address(),
                tried: &[],
            },
            model: self.asked.model.as_deref(),
            measured: None,
            prefix: self.asked.prefix.clone(),
            pinned: None,
            tried: Vec::new(),
            beside: Beside { kept, shadow_key: b"" },
        }
    }

    /// Sends the request to the leased replica, with the question for its usage where that may be asked.
    ///
    /// A replica that has never taken the question and refuses the request is sent it again without; it is not asked
    /// again if that was it.
    pub(super) async fn ask(&self, out: &mut Outbound, lease: &Lease, story: &mut Story) -> Result<Answer, Failure> {
        let replica = lease.replica();
        let usage = self.asked.usage.as_ref();
        let usage = usage.filter(|_| lease.pool().spec().metering.ask_for_usage && replica.may_be_asked_usage());
        self.address(out, lease, (story, usage));
        let mut answer = self.send(out, lease, story).await?;
        if usage.is_none() {
            return Ok(answer);
        }
        if is_refusal(answer.head.status) && !replica.gives_usage() {
            drop(answer);
            self.address(out, lease, (story, None));
            story.tries(lease, story.now());
            let answer = self.send(out, lease, story).await?;
            if answer.head.status.is_success() {
                replica.learn_usage(false);
            }
            return Ok(answer);
        }
        if answer.head.status.is_success() {
            replica.learn_usage(true);
        }
        answer.usage_is_ours = true;
        Ok(answer)
    }

    /// Makes the request fit the replica that was chosen: its own name for the model, its pool's key and headers, and
    /// one more edit.
    pub(super) fn address(&self, out: &mut Outbound, lease: &Lease, (story, more): (&Story, Option<&Edit>)) {
        let wanted = self.asked.model.as_deref();
        let renamed = wanted.and_then(|model| lease.model_for(model)).and_then(|name| self.asked.rename(name.as_str()));
        let edits: Vec<Edit> = renamed.into_iter().chain(more.cloned()).collect();
        // An edit that does not fit leaves the body as the client sent it, and the replica refuses the alias.
        out.body = match splice(self.body, edits) {
            Ok(pieces) => pieces.into_iter().collect(),
            Err(_) => [self.body.clone()].into_iter().collect(),
        };
        // What one pool sets must not reach another.
        if let Some(plain) = &self.plain {
            out.headers.clone_from(plain);
        }
        let key = lease.pool().api_key().and_then(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok());
        match key.or_else(|| self.authorization.clone()) {
            Some(value) => out.headers.insert(header::AUTHORIZATION, value),
            None => out.headers.remove(header::AUTHORIZATION),
        };
        story.dress_request(&mut out.headers);
    }

    /// Sends the request to the leased replica; the story follows.
    pub(super) async fn send(&self, out: &Outbound, lease: &Lease, story: &mut Story) -> Result<Answer, Failure> {
        let mut nowhere = Timing::default();
        let timing = story.timing().unwrap_or(&mut nowhere);
        let sent = self.worker.upstream.send(out, lease, &self.settings.timeouts, timing).await;
        match &sent {
            Ok(answer) => story.answered(answer.head.status, &answer.head.headers),
            Err(failure) => story.failed(failure),
        }
        sent
    }

    /// Passes an answer on; the lease goes with its body.
    pub(super) fn relay(&self, answer: Answer, lease: Lease) -> Response<Source> {
        let owner = Owner { pool: lease.pool().name().clone(), replica: lease.replica().id(), tenant: None };
        let (head, relayed) =
            Relayed::new(answer, lease, self.call.dialect, &self.settings.timeouts, self.worker.app.clock);
        let owner = (self.call.dialect == Dialect::Responses).then_some(owner);
        let mut response = Response::new(Source::Replica(Box::new(relayed), owner));
        *response.status_mut() = head.status;
        let mut headers = head.headers;
        identify::strip_hop_by_hop(&mut headers);
        if response.body().edits() {
            headers.remove(header::CONTENT_LENGTH);
        }
        if is_stream(&headers) {
            // Proxies before us must neither gather nor keep what comes.
            headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        }
        *response.headers_mut() = headers;
        response
    }
}

/// What replicas answer to a member that they do not know.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}
