//! The steps before a request is served: validate its head, find its route, check who asks.

use std::sync::Arc;

use http::request::Parts;

use super::client::{ClientInfo, request_host, resolve_client};
use super::route::{RouteTarget, RoutedRequest, match_route};
use super::{auth, cors, validate};
use crate::config::Settings;
use crate::dialect::Dialect;
use crate::fleet::{Fleet, RoutedPools};
use crate::routes::{AddressRule, KeyAccess};
use crate::server::RequestError;
use crate::server::api::ModelShape;
use crate::server::connection::peer_addr::PeerAddr;
use crate::server::connection::state::ConnectionState;
use crate::tenants::Tenant;

/// A request that is routed and authenticated.
pub(in crate::server) struct RoutedHead {
    pub(in crate::server) target: Result<RouteTarget, RequestError>,
    pub(in crate::server) origin: RequestOrigin,
}

/// Who asks, for which host, by which route.
pub(in crate::server) struct RequestOrigin {
    /// In lower case, without port and final dot; empty if the request names none.
    pub(in crate::server) host: String,
    /// `None` if no route takes the request.
    pub(in crate::server) routed: Option<Arc<RoutedPools>>,
    pub(in crate::server) client_info: ClientInfo,
    /// The dialect in which errors are written.
    pub(in crate::server) dialect: Dialect,
    pub(in crate::server) tenant: Option<Arc<Tenant>>,
}

impl RoutedHead {
    /// Validates, routes and authenticates a request. A preflight request carries no key and is not authenticated.
    pub(in crate::server) fn new(
        head: &Parts,
        settings: &Settings,
        fleet: &Fleet,
        connection: &ConnectionState,
    ) -> Self {
        let host = request_host(head);
        let is_preflight = settings.cors.is_some() && cors::is_preflight(head);
        let validated = validate::validate_head(head, &settings.limits, connection.has_two_lengths());
        let is_valid = validated.is_ok();
        let RoutedRequest { routed, target } = match validated {
            Ok(()) => match_route(fleet, &connection.arrival, &host, head, is_preflight),
            // As in nginx, it has the settings of the default host.
            Err(error) => RoutedRequest { routed: fleet.find_default_route(&connection.arrival), target: Err(error) },
        };
        let scope = routed.as_ref().map_or(&settings.scope, |routed| &routed.route().scope);
        let mut client_info = ClientInfo {
            is_tls: connection.info.tls.is_some(),
            ..resolve_client(connection.peer, &head.headers, &scope.client_address)
        };
        let dialect = target.as_ref().ok().and_then(RouteTarget::dialect);
        let dialect = dialect.unwrap_or_else(|| ModelShape::requested_by(&head.headers).error_dialect());
        let needs_key = is_valid && !matches!(&target, Ok(target) if target.is_public());
        let admitted = match &target {
            Ok(RouteTarget::NotFound | RouteTarget::AddSlash) => Ok(None),
            Ok(RouteTarget::Answer) => {
                let names_keys = matches!(scope.keys, KeyAccess::Named(_));
                check_method_and_key(head, settings, routed.as_deref(), names_keys)
            }
            _ if is_valid => admit(head, settings, routed.as_deref(), client_info.client, needs_key),
            _ => Ok(None),
        };
        // Without a key not even the paths that exist can be found out.
        let (target, tenant) = match admitted {
            Ok(tenant) => (target, tenant),
            Err(error) => (Err(error), None),
        };
        client_info.authenticated = tenant.is_some();
        Self { target, origin: RequestOrigin { host, routed, client_info, dialect, tenant } }
    }
}

/// Checks the client's address, the method, and the key if one is needed. Returns the tenant of the key.
///
/// *Errors*: one of them is refused.
fn admit(
    head: &Parts,
    settings: &Settings,
    routed: Option<&RoutedPools>,
    client: PeerAddr,
    needs_key: bool,
) -> Result<Option<Arc<Tenant>>, RequestError> {
    let scope = routed.map_or(&settings.scope, |routed| &routed.route().scope);
    let address = match client {
        PeerAddr::Tcp(_) => Some(client.address()),
        PeerAddr::Unix => None,
    };
    if !AddressRule::admits(&scope.access, address) {
        return Err(RequestError::AddressDenied);
    }
    check_method_and_key(head, settings, routed, needs_key)
}

/// Checks the method, and the key if one is needed. Returns the tenant of the key.
///
/// As in nginx, what a route answers itself is open to all addresses. It needs a key only where the route names keys.
///
/// *Errors*: one of them is refused.
fn check_method_and_key(
    head: &Parts,
    settings: &Settings,
    routed: Option<&RoutedPools>,
    needs_key: bool,
) -> Result<Option<Arc<Tenant>>, RequestError> {
    let scope = routed.map_or(&settings.scope, |routed| &routed.route().scope);
    if !scope.allows_method(&head.method) {
        return Err(RequestError::MethodDenied(head.method.clone()));
    }
    let accepts_azure = routed.is_some_and(RoutedPools::accepts_azure);
    let authenticate = || auth::authenticate(&settings.tenants, &head.headers, accepts_azure);
    match &scope.keys {
        KeyAccess::Any if needs_key => authenticate(),
        KeyAccess::Named(names) if needs_key => match authenticate()? {
            Some(tenant) if names.contains(&tenant.name) => Ok(Some(tenant)),
            _ => Err(RequestError::ApiKeyInvalid),
        },
        KeyAccess::Any | KeyAccess::Named(_) | KeyAccess::Open => Ok(None),
    }
}
