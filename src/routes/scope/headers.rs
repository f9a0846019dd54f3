//! Headers set on requests and responses, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::log_format::{LogFormat, RequiredFields};

/// The statuses of responses that are no errors, as nginx's `add_header` has them.
const SUCCESS_STATUSES: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];

/// The header rules of the pools that have their own, and what the rules of all pools and routes need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    pools: BTreeMap<Arc<str>, PoolHeaderRules>,
    required_fields: RequiredFields,
    has_request_rules: bool,
    has_response_rules: bool,
}

/// The header rules of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRuleSet {
    /// Headers of requests to the replicas, in place of the client's.
    pub request: Vec<HeaderRule>,
    /// Headers of responses, in place of the replica's or the router's.
    pub response: Vec<HeaderRule>,
    /// Headers of responses that are no errors, added after those.
    pub success: Vec<HeaderRule>,
}

/// The header rules of a pool; `None` for those of the route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PoolHeaderRules {
    request: Option<Vec<HeaderRule>>,
    response: Option<Vec<HeaderRule>>,
}

/// One header and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Its name; none that frames a message or is hop-by-hop.
    pub name: HeaderName,
    /// Its values, a line each; at least one.
    pub values: Vec<HeaderTemplate>,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTemplate {
    /// Removes the header.
    Empty,
    /// A constant value.
    Constant(HeaderValue),
    /// A value with variables; if it is empty or no valid header value, the line is left out.
    Format(LogFormat),
}

impl HeaderRules {
    /// Returns the rules for requests to `pool`; those of the route unless the pool has its own.
    pub fn for_request<'a>(&'a self, pool: Option<&str>, route: &'a HeaderRuleSet) -> &'a [HeaderRule] {
        let own = pool.and_then(|pool| self.pools.get(pool)?.request.as_deref());
        own.unwrap_or(&route.request)
    }

    /// Returns the rules for responses from `pool`; those of the route unless the pool has its own.
    pub fn for_response<'a>(&'a self, pool: Option<&str>, route: &'a HeaderRuleSet) -> &'a [HeaderRule] {
        let own = pool.and_then(|pool| self.pools.get(pool)?.response.as_deref());
        own.unwrap_or(&route.response)
    }

    /// Returns the rules for responses with this status that are no errors; none for another one.
    pub fn for_success(route: &HeaderRuleSet, status: u16) -> &[HeaderRule] {
        if SUCCESS_STATUSES.contains(&status) { &route.success } else { &[] }
    }

    /// Returns the fields of a request that the variables of all rules and answers need.
    pub const fn required_fields(&self) -> &RequiredFields {
        &self.required_fields
    }

    /// Returns whether any rule sets headers on requests.
    pub const fn has_request_rules(&self) -> bool {
        self.has_request_rules
    }

    /// Returns whether any rule sets headers on responses.
    pub const fn has_response_rules(&self) -> bool {
        self.has_response_rules
    }

    /// Returns whether there is any rule, or an answer with a variable.
    pub fn has_templates(&self) -> bool {
        self.has_request_rules || self.has_response_rules || self.required_fields != RequiredFields::default()
    }

    /// Adds a pool's rules; those of the route hold for a direction for which it has none.
    pub(crate) fn add_pool(
        &mut self,
        pool: Arc<str>,
        request: Option<Vec<HeaderRule>>,
        response: Option<Vec<HeaderRule>>,
    ) {
        if request.is_some() || response.is_some() {
            self.pools.insert(pool, PoolHeaderRules { request, response });
        }
    }

    /// Sums up what the rules of the pools and of `routes` need, and the fields in `answers`.
    pub(crate) fn collect_requirements<'a>(
        &mut self,
        routes: impl Iterator<Item = &'a HeaderRuleSet>,
        answers: &RequiredFields,
    ) {
        let pools = std::mem::take(&mut self.pools);
        let routes =
            routes.flat_map(|rules| [(Some(&rules.request), Some(&rules.response)), (None, Some(&rules.success))]);
        for (request, response) in pools.values().map(|p| (p.request.as_ref(), p.response.as_ref())).chain(routes) {
            self.has_request_rules |= request.is_some_and(|rules| !rules.is_empty());
            self.has_response_rules |= response.is_some_and(|rules| !rules.is_empty());
            for value in request.into_iter().chain(response).flatten().flat_map(|rule| &rule.values) {
                if let HeaderTemplate::Format(format) = value {
                    self.required_fields.merge(format.required_fields());
                }
            }
        }
        self.pools = pools;
        self.required_fields.merge(answers);
    }
    /// Makes connections keep the addresses of both ends, which hash keys need.
    pub(crate) const fn require_socket_addrs(&mut self) {
        self.required_fields.socket_addrs = true;
    }
}
