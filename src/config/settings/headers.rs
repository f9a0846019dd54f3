//! Headers set on requests and responses, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::log_format::{LogFormat, RequiredFields};

/// The header rules of all pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// For pools without rules of their own, and for responses that belong to no pool.
    pub(in crate::config) defaults: HeaderRuleSet,
    pools: BTreeMap<Arc<str>, HeaderRuleSet>,
    required_fields: RequiredFields,
    has_request_rules: bool,
    has_response_rules: bool,
}

/// The header rules of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRuleSet {
    /// Headers of requests to the replicas, in place of the client's.
    pub request: Vec<HeaderRule>,
    /// Headers of responses, in place of the replica's or the router's.
    pub response: Vec<HeaderRule>,
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
    /// Returns the rules for `pool`; with `None` those of responses that belong to no pool.
    pub fn for_pool(&self, pool: Option<&str>) -> &HeaderRuleSet {
        pool.and_then(|pool| self.pools.get(pool)).unwrap_or(&self.defaults)
    }

    /// Returns the fields of a request that the variables of all rules need.
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

    /// Returns whether there is any rule.
    pub const fn has_rules(&self) -> bool {
        self.has_request_rules || self.has_response_rules
    }

    /// Adds a pool's rules; a direction for which it has none uses the defaults.
    pub(in crate::config) fn add_pool(
        &mut self,
        pool: Arc<str>,
        request: Option<Vec<HeaderRule>>,
        response: Option<Vec<HeaderRule>>,
    ) {
        if request.is_none() && response.is_none() {
            return;
        }
        let request = request.unwrap_or_else(|| self.defaults.request.clone());
        let response = response.unwrap_or_else(|| self.defaults.response.clone());
        self.pools.insert(pool, HeaderRuleSet { request, response });
    }

    /// Sums up what the rules need, once all pools are added.
    pub(in crate::config) fn collect_requirements(&mut self) {
        for rules in self.pools.values().chain([&self.defaults]) {
            self.has_request_rules |= !rules.request.is_empty();
            self.has_response_rules |= !rules.response.is_empty();
            for value in rules.request.iter().chain(&rules.response).flat_map(|rule| &rule.values) {
                if let HeaderTemplate::Format(format) = value {
                    self.required_fields.merge(format.required_fields());
                }
            }
        }
    }
}
