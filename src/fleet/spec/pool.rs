//! The description of a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::PolicySpec;
use crate::fleet::{FailurePolicy, MemberSpec, PathPolicy, Sticky, UpstreamTls};
use crate::prompt::{MediaTokens, Tokenizer};
use crate::routes::PoolRoute;
use crate::units::{ModelNames, Tokens};

/// A pool: the replicas of one model, or of the models that they list, and how requests reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// The pool's name in metrics, logs and `fallback`; unique in a fleet.
    pub name: Arc<str>,
    /// The models that clients may request. Empty: learned from the replicas' `/v1/models`.
    pub models: ModelNames,
    /// The load-balancing policy.
    pub policy: PolicySpec,
    /// A shadow policy: evaluated on live requests, its choices only recorded.
    pub shadow: Option<PolicySpec>,
    /// The replicas, in configuration order.
    pub members: Vec<MemberSpec>,
    /// The host and path that lead to this pool, unless a route names it.
    pub route: PoolRoute,
    /// Whether clients may use the paths and the key header of Azure OpenAI.
    pub accepts_azure: bool,
    /// The paths of its replicas that clients can reach.
    pub path_policy: PathPolicy,
    /// Whether clients may open WebSockets on those paths.
    pub websocket: bool,
    /// The pool that serves a request when this one has no replica for it.
    pub fallback: Option<Arc<str>>,
    /// How tokens are counted.
    pub token_accounting: TokenAccounting,
    /// Sent as `Authorization: Bearer` in place of the client's.
    pub api_key: Option<ApiKey>,
    /// Session affinity, whatever the policy.
    pub sticky: Option<Sticky>,
    /// How requests of coding agents are read.
    pub agents: AgentOptions,
    /// Certificate verification for `https://` replicas; the members' origins carry it too.
    pub tls: UpstreamTls,
    /// How failing replicas are handled.
    pub failure_policy: FailurePolicy,
}

/// How a pool's tokens are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAccounting {
    /// Whether usage is requested for streams whose clients did not request it; it is removed from the response.
    pub request_usage: bool,
    /// The tokenizer that counts prompts; `None`: their length is estimated.
    pub tokenizer: Option<Tokenizer>,
    /// Tokens of an image or a sound.
    pub media_tokens: MediaTokens,
    /// Length of the prompt prefix that `$prefix` stands for.
    pub prefix_length: Tokens,
    /// Interval between scrapes of the engines' metrics; `None` for never.
    pub engine_metrics_interval: Option<Duration>,
}

/// How a pool reads the requests of coding agents and other clients with sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentOptions {
    /// Headers that name the session, in lower case, before those of known clients.
    pub session_headers: Vec<String>,
    /// Whether metadata that clients put in front of system prompts is cut from forwarded bodies.
    pub cuts_metadata: bool,
}

/// A key that a replica requires. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl Default for TokenAccounting {
    /// Estimates prompts, requests usage for every stream, scrapes no engine.
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

impl ApiKey {
    /// Wraps `key`.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Returns the key itself, for the request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}
