//! One try at finding a replica for a request.

use std::sync::Arc;

use super::{Decisions, Measured};
use crate::balance::Job;
use crate::prompt::Prefix;
use crate::units::ReplicaId;

/// One try at finding a replica for a request.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// What the policy may know; `tried` is filled in here.
    pub job: Job<'a>,
    /// The model asked for; only replicas that list it are eligible where the pool learns its models.
    pub model: Option<&'a str>,
    /// How the request was measured, to learn from its end; its lengths go before the job's.
    pub measured: Option<Measured>,
    /// What the prompt begins with, to know where that is cached.
    pub prefix: Option<Arc<Prefix>>,
    /// The replica that the request belongs to.
    pub pinned: Option<Pin>,
    /// Replicas that have failed this request.
    pub tried: Vec<ReplicaId>,
    /// Who looks on.
    pub beside: Beside<'a>,
}

/// What goes along with a choice and takes no part in it.
#[derive(Clone, Debug, Default)]
pub struct Beside<'a> {
    /// Where the decision is kept, and by which name of the request.
    pub kept: Option<(Arc<Decisions>, Arc<str>)>,
    /// What the pool's shadow policy knows the request by; empty if that has no key.
    pub shadow_key: &'a [u8],
}

/// How much a request belongs to a replica. It goes there without asking the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// No other will do: what the request is about is there.
    Only(ReplicaId),
    /// Another will do if this one cannot be chosen.
    Rather(ReplicaId),
}

impl Pin {
    /// The replica.
    pub const fn replica(self) -> ReplicaId {
        match self {
            Self::Only(id) | Self::Rather(id) => id,
        }
    }
}

impl<'a> Attempt<'a> {
    /// The job with its lengths as measured.
    pub(super) fn job(&self) -> Job<'a> {
        match &self.measured {
            Some(measured) => Job { prompt: measured.prompt, output: measured.output, ..self.job },
            None => self.job,
        }
    }

    /// Tells whether no replica but the pinned one will do.
    pub const fn is_bound(&self) -> bool {
        matches!(self.pinned, Some(Pin::Only(_)))
    }
}
