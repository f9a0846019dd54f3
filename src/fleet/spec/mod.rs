//! What a fleet is made from: the configuration's view of pools and replicas, as plain data.

pub(super) mod failure_policy;
pub(super) mod origin;
pub(super) mod sticky;
pub(super) mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{FailurePolicy, Origin, Sticky, UpstreamTls};
use crate::balance::PolicySpec;
use crate::eject;
use crate::prompt::{MediaTokens, Tokenizer};
use crate::units::{ModelName, Tokens, Weight};

/// The replicas of one model, or of the models they say they have, and how requests reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// The pool's name in metrics, logs and `fallback`; unique in a fleet.
    pub name: Arc<str>,
    /// The names clients may ask for. Empty: learned from the replicas' `/v1/models`.
    pub models: Vec<ModelName>,
    /// How a replica is chosen.
    pub policy: PolicySpec,
    /// A policy that is asked beside it and not obeyed, to know what it would have done.
    pub shadow: Option<PolicySpec>,
    /// The replicas, in configuration order.
    pub members: Vec<MemberSpec>,
    /// Which requests are looked at for this pool at all.
    pub route: Route,
    /// Which paths reach the replicas.
    pub path_policy: PathPolicy,
    /// The pool that takes over when this one has no replica for a request.
    pub fallback: Option<Arc<str>>,
    /// How tokens are counted.
    pub token_accounting: TokenAccounting,
    /// Sent as `Authorization: Bearer` in place of the client's.
    pub api_key: Option<ApiKey>,
    /// How clients stay on their replica, whatever the policy.
    pub sticky: Option<Sticky>,
    /// How replicas that are reached by `https://` are verified; the members' origins say so too.
    pub tls: UpstreamTls,
    /// What is done about replicas that fail.
    pub failure_policy: FailurePolicy,
}

/// How a pool's tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAccounting {
    /// Whether replicas are asked for the usage of streams whose clients did not; the answer is kept from the client.
    pub request_usage: bool,
    /// What prompts are counted by; `None`: their length is estimated.
    pub tokenizer: Option<Tokenizer>,
    /// What a picture or a sound counts as.
    pub media_tokens: MediaTokens,
    /// How much of a prompt `$prefix` stands for.
    pub prefix_length: Tokens,
    /// How often the replicas are asked for their engine's metrics; `None` for never.
    pub engine_metrics_interval: Option<Duration>,
}

impl Default for TokenAccounting {
    /// Estimates, and asks for the usage of every stream; asks no engine for its metrics.
    fn default() -> Self {
        Self {
            request_usage: true,
            tokenizer: None,
            media_tokens: MediaTokens::default(),
            prefix_length: Tokens(1_024),
            engine_metrics_interval: None,
        }
    }
}

/// One replica as a member of one pool: nginx's `server` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// The name in logs, metrics and `X-Upstream`; by default `host:port`.
    pub name: Arc<str>,
    /// Where it is reached. Two members with one origin are one replica with one load.
    pub origin: Origin,
    /// Its share of the load.
    pub weight: Weight,
    /// `max_fails` and `fail_timeout`.
    pub eject_limits: eject::EjectLimits,
    /// The most requests at once; `None` for no limit (nginx writes 0).
    pub max_conns: Option<u32>,
    /// Chosen only when no other member can be.
    pub backup: bool,
    /// Never chosen.
    pub down: bool,
    /// Chosen only for requests that belong to it.
    pub drain: bool,
    /// Its host is asked for again and again, and each address is a member: nginx's `resolve`.
    pub dns_lookup: Option<DnsLookup>,
    /// The time in which its weight grows from nothing when it comes back; zero for at once.
    pub slow_start: Duration,
}

/// How a host's addresses are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsLookup {
    /// nginx's `service`: SRV records give the addresses' ports; `None` for A and AAAA records.
    pub service: Option<Arc<str>>,
}

/// Which requests a pool is looked at for: first by host, then by the longest path, then by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The `Host` without port, lower case; `None` for every host that no other pool names.
    pub host: Option<String>,
    /// The path's beginning, whole segments, `/` in front and none behind; `None` for every path.
    pub path: Option<String>,
    /// Paths of these that are refused.
    pub blocked_paths: Vec<BlockedPath>,
}

impl Route {
    /// Tells whether the same requests come here, whatever is refused of them.
    pub(super) fn is_same_route(&self, other: &Self) -> bool {
        self.host == other.host && self.path == other.path
    }
}

/// A path that never reaches a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedPath {
    /// The path, or what it begins with, as nginx's `location` compares it: without escapes, dots and double slashes.
    pub path: String,
    /// Whether it is this path alone.
    pub exact: bool,
    /// What it is answered with, 400 to 599.
    pub status: u16,
}

/// Which paths of a pool's replicas can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPolicy {
    /// The API's paths, and these.
    Listed(Vec<String>),
    /// Every path, control endpoints included, whatever the model: the plain nginx case.
    Any,
}

/// A key that a replica asks for. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Keeps `key` from being printed.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, for the request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl BlockedPath {
    /// Tells whether it is about `path`, which is free of escapes, dots and double slashes.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.exact { path == self.path.as_bytes() } else { path.starts_with(self.path.as_bytes()) }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl MemberSpec {
    /// A member with nginx's defaults.
    pub fn new(origin: Origin) -> Self {
        Self {
            name: origin.authority().into(),
            origin,
            weight: Weight::ONE,
            eject_limits: eject::EjectLimits::default(),
            max_conns: None,
            backup: false,
            down: false,
            drain: false,
            dns_lookup: None,
            slow_start: Duration::ZERO,
        }
    }
}
