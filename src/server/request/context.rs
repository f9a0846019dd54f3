//! The facts about one request that do not change once it is routed.

use std::ops::Deref;
use std::sync::Arc;

use super::routed_head::RequestOrigin;
use crate::config::Settings;
use crate::log_format::RequestLine;
use crate::routes::{Answer, RouteAction, RouteScope};
use crate::server::connection::state::{ActiveRequest, ConnectionState};
use crate::server::connection::worker_load::RequestGuard;
use crate::units::Moment;

/// The facts about one request that do not change once it is routed.
pub(in crate::server) struct RequestContext {
    pub(in crate::server) id: Arc<str>,
    /// The configuration at the start of the request.
    pub(in crate::server) settings: Arc<Settings>,
    /// Who asks, for which host, by which route.
    pub(in crate::server) origin: RequestOrigin,
    pub(in crate::server) request_line: RequestLine,
    /// The arrival of the head.
    pub(in crate::server) received_at: Moment,
    /// Counts the request on its connection.
    pub(in crate::server) active_request: ActiveRequest,
    /// Counts the request on its worker.
    pub(in crate::server) _request_guard: RequestGuard,
}

impl Deref for RequestContext {
    type Target = RequestOrigin;

    fn deref(&self) -> &RequestOrigin {
        &self.origin
    }
}

impl RequestContext {
    /// Returns what the route answers itself; `None` for one that leads to pools.
    pub(in crate::server) fn answer(&self) -> Option<&Answer> {
        match &self.routed.as_ref()?.route().action {
            RouteAction::Answer(answer) => Some(answer),
            RouteAction::Pools(_) | RouteAction::NotFound => None,
        }
    }

    /// Returns the settings of the route, or those at the top.
    pub(in crate::server) fn scope(&self) -> &RouteScope {
        self.routed.as_ref().map_or(&self.settings.scope, |routed| &routed.route().scope)
    }

    /// Returns the first name of the host that takes the request; `None` for a host without names.
    pub(in crate::server) fn server_name(&self) -> Option<&str> {
        self.routed.as_ref()?.route().server_name.as_deref()
    }

    /// Returns the client's connection.
    pub(in crate::server) fn connection(&self) -> &ConnectionState {
        self.active_request.connection()
    }

    /// Returns the client's connection if it serves one request at a time: HTTP/1.
    pub(in crate::server) fn http1_connection(&self) -> Option<&ConnectionState> {
        Some(self.connection()).filter(|connection| connection.is_http1())
    }

    /// Returns the name of the tenant; `None` without one.
    pub(in crate::server) fn tenant_name(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref().map(|tenant| &tenant.name)
    }
}
