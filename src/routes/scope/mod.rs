//! The settings that hold for a route: those of nginx's `http`, `server` and `location`.

mod access;
mod access_log;
mod client_address;
mod headers;
mod timeouts;

use std::sync::Arc;

use http::Method;

pub use access::{AddressRule, AddressRuleError, AddressSet, KeyAccess};
pub use access_log::AccessLogSpec;
pub use client_address::ClientAddressSettings;
pub use headers::{HeaderRule, HeaderRuleSet, HeaderRules, HeaderTemplate};
pub use timeouts::Timeouts;

/// The settings of one route, with those that it inherits from its host and from the top of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteScope {
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// The timeouts of clients and replicas. Those of connections that have no request yet are read at the top only.
    pub timeouts: Timeouts,
    /// The rule for the client's address.
    pub client_address: ClientAddressSettings,
    /// The size in bytes from which JSON responses are compressed for clients that accept gzip; `None` for never.
    pub gzip: Option<usize>,
    /// Headers set on requests and responses, unless the pool has its own.
    pub headers: HeaderRuleSet,
    /// The addresses that may ask, as nginx's `allow` and `deny`: the first rule that matches decides. Without a match
    /// a client may ask.
    pub access: Vec<AddressRule>,
    /// The methods that clients may use; `None` for all.
    pub methods: Option<Vec<Method>>,
    /// The API keys that may ask.
    pub keys: KeyAccess,
    /// The access logs, empty for none; `None` for that of `[log]`.
    pub access_logs: Option<Arc<[AccessLogSpec]>>,
}

impl RouteScope {
    /// Returns whether clients may use `method`. `GET` includes `HEAD`, as in nginx's `limit_except`.
    pub fn allows_method(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else { return true };
        methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
    }
}

impl Default for RouteScope {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            timeouts: Timeouts::default(),
            client_address: ClientAddressSettings::default(),
            gzip: None,
            headers: HeaderRuleSet::default(),
            access: Vec::new(),
            methods: None,
            keys: KeyAccess::Any,
            access_logs: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_includes_head() {
        let scope = RouteScope { methods: Some(vec![Method::GET]), ..RouteScope::default() };
        assert!(scope.allows_method(&Method::GET) && scope.allows_method(&Method::HEAD));
        assert!(!scope.allows_method(&Method::POST) && RouteScope::default().allows_method(&Method::POST));
    }
}
