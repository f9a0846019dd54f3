//! The story of one request, told to the access log and the metrics when it is over, however it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use super::App;
use super::identify::Caller;
use super::owners::Owner;
use super::tally::Load;
use crate::fleet::{Phase, Replica};
use crate::telemetry::{Level, Line};
use crate::units::Moment;
use crate::upstream::Ending;

/// nginx's status for a client that left before it was answered.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What there is to tell of one request. Dropping it tells it.
pub(super) struct Story {
    app: Arc<App>,
    /// The request counts as an open stream of its worker until the story ends.
    _load: Load,
    pub(super) id: String,
    pub(super) caller: Caller,
    method: String,
    path: String,
    arrived: Moment,
    pub(super) status: u16,
    pub(super) model: Option<String>,
    replica: Option<Arc<Replica>>,
    overhead: Option<Duration>,
    pub(super) ending: Option<Ending>,
}

impl Story {
    pub(super) fn new(app: Arc<App>, load: Load, head: &Parts, caller: Caller, id: String) -> Self {
        Self {
            arrived: app.clock.now(),
            method: head.method.as_str().to_owned(),
            path: head.uri.path().to_owned(),
            app,
            _load: load,
            id,
            caller,
            status: 0,
            model: None,
            replica: None,
            overhead: None,
            ending: None,
        }
    }

    /// Notes the replica that is tried now, and what the router took to come to it since the body was complete.
    pub(super) fn sent(&mut self, replica: &Arc<Replica>, complete: Moment) {
        self.replica = Some(replica.clone());
        if self.overhead.is_none() {
            self.overhead = Some(self.app.clock.now().since(complete));
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.app.clock.now()
    }

    /// Writes what went wrong at the replica that was tried last into the error log.
    pub(super) fn complain(&self, level: Level, phase: Phase, cause: &dyn fmt::Display) {
        let replica = self.replica.as_ref().map_or("-", |r| &**r.name());
        let phase = phase.as_str();
        self.app.errors.write(level, format_args!("request {} on {replica} failed at {phase}: {cause}", self.id));
    }

    /// Remembers who holds the response with this id.
    pub(super) fn remember(&self, id: &str, owner: Owner) {
        self.app.owners.put(id, owner, self.app.clock.now());
    }

    fn outcome(&self) -> &'static str {
        match (&self.ending, self.status) {
            (Some(ending), _) => ending.outcome.map_or("client_gone", |outcome| outcome.as_str()),
            (None, 0) => "client_gone",
            (None, 1..=399) => "completed",
            (None, 400..=499) => "refused",
            (None, _) => "failed",
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.app.metrics.answered(self.status, self.overhead);
        let Some(log) = &self.app.access else { return };
        let ending = self.ending.as_ref();
        log.write(
            &Line {
                id: &self.id,
                client: &self.caller.client.text(),
                method: &self.method,
                path: &self.path,
                status: if self.status == 0 { CLIENT_CLOSED_REQUEST } else { self.status },
                upstream: self.replica.as_ref().map(|r| &**r.name()),
                model: self.model.as_deref(),
                usage: ending.and_then(|e| e.usage),
                ttft: ending.and_then(|e| e.first_token).map(|first| first.since(self.arrived)),
                duration: self.app.clock.now().since(self.arrived),
                outcome: self.outcome(),
            },
            self.app.clock.time_of_day(),
        );
    }
}
