//! Whose key a request shows, and what that opens.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{self, HeaderName};

use super::context::RequestContext;
use super::parse::ParsedRequest;
use super::route::ProxyRoute;
use crate::fleet::{NoReplica, Pool, PoolLookupError};
use crate::server::proxy::response_table::ResponseOwner;
use crate::server::{AppState, RequestError};
use crate::tenants::{Tenant, TenantTable};
use crate::units::Moment;

/// Where Anthropic's clients put their key.
pub(in crate::server) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER_PREFIX: &[u8] = b"bearer ";

/// Finds out whose key a request shows; nobody's where there are no keys.
///
/// *Errors*: it shows none, or one that is nobody's.
pub(in crate::server) fn authenticate(
    tenants: &TenantTable,
    headers: &HeaderMap,
) -> Result<Option<Arc<Tenant>>, RequestError> {
    if tenants.is_empty() {
        return Ok(None);
    }
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer_token(value.as_bytes()));
    let others = headers.get_all(X_API_KEY).iter().map(|value| value.as_bytes().trim_ascii());
    let mut shown = bearers.chain(others).filter(|key| !key.is_empty()).peekable();
    if shown.peek().is_none() {
        return Err(RequestError::ApiKeyMissing);
    }
    shown.find_map(|key| tenants.find_by_key(key)).cloned().map(Some).ok_or(RequestError::ApiKeyInvalid)
}

/// What is behind `Bearer `.
pub(in crate::server) fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(BEARER_PREFIX.len())?;
    scheme.eq_ignore_ascii_case(BEARER_PREFIX).then(|| key.trim_ascii())
}

/// Finds a request's pool, and the replica that holds what it is about. Without a pool every replica is to be asked.
///
/// What a key does not open answers as if it were not there. *Errors*: there is no such model or response, or nobody can
/// tell which is meant.
pub(in crate::server) fn select_pool(
    app: &AppState,
    call: &ProxyRoute,
    asked: &ParsedRequest,
    story: &RequestContext,
    now: Moment,
) -> Result<(Option<Arc<Pool>>, Option<ResponseOwner>), RequestError> {
    let (tenant, model) = (story.tenant.as_deref(), asked.model.as_deref());
    if let (Some(tenant), Some(name)) = (tenant, model)
        && !tenant.can_use_model(name)
    {
        return Err((PoolLookupError::UnknownModel, model).into());
    }
    let id = call.response_id.as_ref().or(asked.previous_response_id.as_ref());
    let owner = id.and_then(|id| app.tables.responses.get(id, now));
    if owner.as_ref().is_some_and(|owner| owner.tenant.as_deref() != tenant.map(|tenant| &*tenant.name)) {
        return Err(RequestError::UnknownResponse);
    }
    let pool = match &owner {
        Some(owner) => Some(app.fleet.pool(&owner.pool).ok_or(NoReplica::PinnedUnavailable)?),
        None if call.response_id.is_some() => None,
        None => Some(call.virtual_host.find_pool(model).map_err(|why| (why, model))?.clone()),
    };
    let held = tenant.filter(|tenant| tenant.models.is_some() && model.is_none());
    match (held, &pool) {
        (None, _) => {}
        // It was made with this key.
        (Some(_), Some(_)) if call.response_id.is_some() => {}
        (Some(_), None) => return Err(RequestError::UnknownResponse),
        (Some(tenant), Some(pool)) => {
            let models = pool.models();
            if models.is_empty() || !models.iter().all(|name| tenant.can_use_model(name.as_str())) {
                return Err(RequestError::ModelRequiredByKey);
            }
        }
    }
    Ok((pool, owner))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::tenants::KeyDigest;

    fn authenticate_with(lines: &[(&'static str, &'static str)]) -> Result<Option<String>, RequestError> {
        let tenants =
            TenantTable::new(["one", "two"].map(|key| Tenant::new(key, KeyDigest::from_secret(key.as_bytes()), None)));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        authenticate(&tenants, &headers).map(|tenant| tenant.map(|tenant| tenant.name.to_string()))
    }

    #[test]
    fn keys_are_found_where_openais_and_anthropics_clients_put_them() {
        for lines in [
            &[("authorization", "Bearer two")][..],
            &[("authorization", "bearer  two ")],
            &[("x-api-key", "two")],
            &[("authorization", "Bearer none"), ("x-api-key", "two")],
            &[("authorization", "Basic x"), ("authorization", "Bearer two")],
        ] {
            assert_eq!(authenticate_with(lines).unwrap().as_deref(), Some("two"), "{lines:?}");
        }
    }

    #[test]
    fn without_a_key_of_ours_nobody_gets_in() {
        for lines in [&[][..], &[("authorization", "two")], &[("authorization", "Bearer ")], &[("x-api-key", "")]] {
            assert!(matches!(authenticate_with(lines), Err(RequestError::ApiKeyMissing)), "{lines:?}");
        }
        for lines in [
            &[("authorization", "Bearer tw")][..],
            &[("authorization", "Bearer two two")],
            &[("x-api-key", "Bearer two")],
            &[("x-api-key", "TWO")],
        ] {
            assert!(matches!(authenticate_with(lines), Err(RequestError::ApiKeyInvalid)), "{lines:?}");
        }
        assert!(authenticate(&TenantTable::default(), &HeaderMap::new()).unwrap().is_none());
    }
}
