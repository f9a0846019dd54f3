//! One request's charge on one replica, from the choice to the end of the answer.

use std::sync::Arc;
use std::time::Duration;

use super::{Models, Pool, Replica};
use crate::units::{ModelName, Moment, Slot, Usage};

/// How far a request had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No connection to the replica.
    Connect,
    /// Sent, and no byte of an answer.
    FirstByte,
    /// The answer broke off.
    Stream,
}

impl Phase {
    /// The phase's name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Stream => "stream",
        }
    }
}

/// How a request on a replica ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered whole.
    Completed,
    /// The client left first.
    ClientGone,
    /// The replica answered 4xx: the client's fault.
    Refused,
    /// The replica answered 429 or 503: it has too much to do.
    Busy {
        /// What it said in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The replica's fault; the only outcome that ejects.
    Failed {
        /// How far it had come.
        phase: Phase,
    },
    /// The router's own fault or limit.
    Ours,
}

impl Outcome {
    /// The outcome's name in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::Refused => "refused",
            Self::Busy { .. } => "busy",
            Self::Failed { .. } => "failed",
            Self::Ours => "ours",
        }
    }
}

/// What a part of the answer has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Whether it brought generated content.
    pub content: bool,
    /// The token counts, if it carried them.
    pub usage: Option<Usage>,
}

/// What one lease came to, told to the [`Observer`] when it settles.
#[derive(Debug)]
pub struct Report<'a> {
    /// The pool that chose.
    pub pool: &'a Pool,
    /// The replica that was chosen.
    pub replica: &'a Replica,
    /// How it ended.
    pub outcome: Outcome,
    /// When the replica was chosen.
    pub chosen: Moment,
    /// When the first generated content came.
    pub first_token: Option<Moment>,
    /// When it ended.
    pub ended: Moment,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
}

/// Is told of every settled lease, after the pool's lock is released.
pub trait Observer: Send + Sync {
    /// Takes note of one settled lease. Called on the data path: it must not block.
    fn settled(&self, report: &Report<'_>);
}

/// A charge on a replica that is taken back exactly once: by [`Lease::settle`], or as [`Outcome::ClientGone`] when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    at: Slot,
    chosen: Moment,
    first_byte: Option<Moment>,
    first_token: Option<Moment>,
    last_progress: Moment,
    usage: Option<Usage>,
    settled: bool,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, replica: Arc<Replica>, at: Slot, now: Moment) -> Self {
        let (first_byte, first_token, usage) = (None, None, None);
        Self { pool, replica, at, chosen: now, first_byte, first_token, last_progress: now, usage, settled: false }
    }

    /// The replica that was chosen.
    pub const fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The pool that chose it.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The replica's own name for `model`; `None` if that is what it is called there, or nothing better is known.
    ///
    /// An alias becomes the first of the pool's names that the replica lists, else the first it lists. A replica that
    /// lists nothing is taken to use the pool's first name.
    pub fn model_for(&self, model: &str) -> Option<ModelName> {
        let names = self.pool.configured_models();
        let listed = self.replica.models();
        let own = match &*listed {
            Models::Listed(_) if listed.list(model) => None,
            Models::Listed(theirs) => names.iter().find(|name| theirs.contains(name)).or(theirs.first()),
            Models::Unlisted | Models::Unknown => names.first(),
        };
        own.filter(|own| own.as_str() != model).cloned()
    }

    /// When the first generated content came.
    pub const fn first_token(&self) -> Option<Moment> {
        self.first_token
    }

    /// The token counts seen so far.
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Follows the answer.
    pub const fn progress(&mut self, seen: Progress, now: Moment) {
        self.last_progress = now;
        if self.first_byte.is_none() {
            self.first_byte = Some(now);
        }
        if seen.content && self.first_token.is_none() {
            self.first_token = Some(now);
        }
        if seen.usage.is_some() {
            self.usage = seen.usage;
        }
    }

    /// Takes the charge back and tells how the request ended.
    pub fn settle(mut self, outcome: Outcome, now: Moment) {
        self.end(outcome, now);
    }

    fn end(&mut self, outcome: Outcome, now: Moment) {
        self.settled = true;
        self.replica.discharge();
        // A fast refusal or failure must not make a replica look fast.
        if outcome == Outcome::Completed {
            let first_byte = self.first_byte.unwrap_or(now).since(self.chosen);
            self.replica.pace().learn(first_byte, now.since(self.chosen));
        }
        self.pool.judge(self.at, outcome, now);
        self.pool.observer().settled(&Report {
            pool: &self.pool,
            replica: &self.replica,
            outcome,
            chosen: self.chosen,
            first_token: self.first_token,
            ended: now,
            usage: self.usage,
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.end(Outcome::ClientGone, self.last_progress);
        }
    }
}
