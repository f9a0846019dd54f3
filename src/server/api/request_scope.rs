//! The part of the router that a local request may see.

use std::sync::Arc;

use crate::fleet::RoutedPools;
use crate::tenants::Tenant;

/// The route that a local request came for, and the tenant whose key it shows.
#[derive(Clone)]
pub(in crate::server) struct RequestScope {
    /// `None` if no route takes the request.
    pub(in crate::server) routed: Option<Arc<RoutedPools>>,
    /// `None` if no keys are configured.
    pub(in crate::server) tenant: Option<Arc<Tenant>>,
}

impl RequestScope {
    /// Returns whether the client's key opens `model`.
    pub(in crate::server) fn can_use_model(&self, model: &str) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant.can_use_model(model))
    }
}
