//! Authentication between the router and its replicas: API keys and certificates.

use std::collections::BTreeMap;
use std::path::Path;

use super::draft::{PoolDraft, UpstreamDraft};
use super::route::parse_host;
use crate::config::build_context::BuildContext;
use crate::config::diagnostics::{Diagnostic, SpannedValue};
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::key_spec::is_header_safe;
use crate::fleet::{ApiKey, TrustRoots, UpstreamTls};

/// Reads a name that a certificate can be for. An address is not: it is in the URL already.
pub(super) fn parse_certificate_name(value: &TomlValue<'_>) -> ReadResult<String> {
    let host = parse_host(value)?;
    let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    if is_address { Err(value.invalid()) } else { Ok(host) }
}

/// Reads an API key; a malformed one is not shown.
pub(super) fn parse_api_key(value: &TomlValue<'_>) -> ReadResult<ApiKey> {
    let text = value.string()?;
    if is_header_safe(&text) {
        return Ok(ApiKey::new(text));
    }
    Err(value.diagnostic("`api_key` takes a key of visible ASCII characters").into())
}

/// Returns the key that is sent to a pool's replicas; `None` if none is configured.
///
/// *Errors*: two keys are given, or the environment has none.
pub(super) fn resolve_api_key(
    draft: &UpstreamDraft,
    env: &BTreeMap<String, String>,
) -> Result<Option<ApiKey>, Diagnostic> {
    let Some(SpannedValue { value: variable, span }) = &draft.api_key_env else {
        return Ok(draft.api_key.as_ref().map(|key| key.value.clone()));
    };
    if let Some(key) = &draft.api_key {
        let message = format!("`api_key` ({}) and `api_key_env` are both given", key.span.relative_to(span));
        return Err(span.diagnostic(message).with_help("keep one"));
    }
    match env.get(variable) {
        Some(key) if is_header_safe(key) => Ok(Some(ApiKey::new(key))),
        Some(_) => Err(span.diagnostic(format!(
            "the environment variable `{variable}` is not a key: only visible ASCII characters are allowed"
        ))),
        None => Err(span.diagnostic(format!("the environment variable `{variable}` is not set"))),
    }
}

/// Returns how a pool's replicas are verified.
pub(super) fn build_upstream_tls(draft: &PoolDraft, context: &mut BuildContext) -> UpstreamTls {
    warn_if_unused(draft, context);
    let name = draft.upstream.tls_name.as_ref().map(|name| name.value.clone());
    UpstreamTls { trust_roots: build_trust_roots(draft, context), server_name: name }
}

/// Warns of keys for TLS in a pool without a replica behind TLS.
fn warn_if_unused(draft: &PoolDraft, context: &mut BuildContext) {
    let UpstreamDraft { tls_ca, tls_name, tls_verify, .. } = &draft.upstream;
    let unverified = tls_verify.as_ref().filter(|verify| !verify.value);
    let spans =
        [tls_ca.as_ref().map(|ca| &ca.span), tls_name.as_ref().map(|name| &name.span), unverified.map(|v| &v.span)];
    let Some(span) = spans.into_iter().flatten().next() else { return };
    let members = draft.members();
    if !members.is_empty() && members.iter().all(|member| member.value.origin.tls().is_none()) {
        let warning = span.diagnostic("warning: unused, no replica of this pool has an `https://` URL");
        context.warnings.push(warning.with_help("write `https://` in the URLs of replicas behind TLS"));
    }
}

fn build_trust_roots(draft: &PoolDraft, context: &mut BuildContext) -> TrustRoots {
    let unverified = draft.upstream.tls_verify.as_ref().filter(|verify| !verify.value);
    match (&draft.upstream.tls_ca, unverified) {
        (Some(ca), Some(SpannedValue { span, .. })) => {
            let message = format!("`tls_ca` ({}) and `tls_verify = false` are both given", ca.span.relative_to(span));
            let help = "keep one: `tls_verify = false` turns verification off";
            context.errors.push(span.diagnostic(message).with_help(help));
            TrustRoots::Insecure
        }
        (None, Some(SpannedValue { span, .. })) => {
            let warning = span.diagnostic("warning: certificates are not verified, so connections can be intercepted");
            context.warnings.push(warning.with_help("set `tls_ca` to the PEM file of the issuer"));
            TrustRoots::Insecure
        }
        (Some(SpannedValue { value: file, span }), None) => {
            context.referenced_files.add(file, span);
            TrustRoots::File(file.clone())
        }
        (None, None) => {
            if let Some(member) = draft.members().iter().find(|member| member.value.origin.tls().is_some()) {
                context.referenced_files.add(Path::new(""), &member.span);
            }
            TrustRoots::System
        }
    }
}
