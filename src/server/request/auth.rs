//! Authentication of clients by their API key.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::server::RequestError;
use crate::tenants::{Tenant, TenantTable};

/// The header in which Anthropic's clients send their key.
pub(in crate::server) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The header in which clients of Azure OpenAI send their key.
pub(in crate::server) const API_KEY: HeaderName = HeaderName::from_static("api-key");
const BEARER_PREFIX: &[u8] = b"bearer ";

/// Returns the tenant whose key a request shows; `None` if no keys are configured. `accepts_azure`: the key may be in
/// [`API_KEY`] too.
///
/// *Errors*: the request shows no key, or an unknown one.
pub(in crate::server) fn authenticate(
    tenants: &TenantTable,
    headers: &HeaderMap,
    accepts_azure: bool,
) -> Result<Option<Arc<Tenant>>, RequestError> {
    if tenants.is_empty() {
        return Ok(None);
    }
    let bearers = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer_token(value.as_bytes()));
    let others = headers.get_all(X_API_KEY).iter();
    let azure = headers.get_all(API_KEY).iter().filter(|_| accepts_azure);
    let mut keys = bearers
        .chain(others.chain(azure).map(|value| value.as_bytes().trim_ascii()))
        .filter(|key| !key.is_empty())
        .peekable();
    if keys.peek().is_none() {
        return Err(RequestError::ApiKeyMissing);
    }
    keys.find_map(|key| tenants.find_by_key(key)).cloned().map(Some).ok_or(RequestError::ApiKeyInvalid)
}

/// Returns the token after `Bearer `; `None` for another scheme.
pub(in crate::server) fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(BEARER_PREFIX.len())?;
    scheme.eq_ignore_ascii_case(BEARER_PREFIX).then(|| token.trim_ascii())
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
        let plain = authenticate(&tenants, &headers, false).map(|tenant| tenant.map(|tenant| tenant.name.to_string()));
        for (name, _) in lines.iter().filter(|(name, _)| *name == "x-api-key") {
            let value = headers.remove(*name).unwrap();
            headers.append(API_KEY, value);
            assert!(authenticate(&tenants, &headers, false).is_err(), "only where it is configured");
        }
        let azure = authenticate(&tenants, &headers, true).map(|tenant| tenant.map(|tenant| tenant.name.to_string()));
        assert_eq!(azure.ok(), plain.as_ref().ok().cloned(), "{lines:?}");
        plain
    }

    #[test]
    fn key_is_found_in_authorization_and_x_api_key() {
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
    fn request_without_a_known_key_is_refused() {
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
        assert!(authenticate(&TenantTable::default(), &HeaderMap::new(), false).unwrap().is_none());
    }
}
