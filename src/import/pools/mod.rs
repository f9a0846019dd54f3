//! The pools of router.toml, from nginx's upstreams and the addresses in `proxy_pass`.
//!
//! An upstream is one pool, whatever number of locations lead to it: nginx has one rotation for all.

pub(super) mod imported_pool;
mod pass_url;
mod servers;
mod tls;

use std::collections::BTreeSet;

use super::blocks::NginxLocation;
use super::context::ImportContext;
use super::report::RemarkKind;
use super::syntax::directive::Directive;
use imported_pool::{ImportedPool, PoolTlsKeys, UpstreamId};

/// The pools so far.
#[derive(Default)]
pub(super) struct PoolTable {
    pub(super) pools: Vec<ImportedPool>,
    used_upstreams: BTreeSet<String>,
}

/// What a `proxy_pass` leads to.
pub(super) struct PassTarget {
    /// The name of the pool.
    pub(super) pool: String,
    /// The path in the URL; empty if there is none.
    pub(super) uri: String,
}

impl PoolTable {
    /// Returns the pool and the path that the `proxy_pass` of a location leads to; `None` and a diagnostic if it leads
    /// nowhere.
    pub(super) fn add_target(
        &mut self,
        context: &mut ImportContext,
        location: &NginxLocation,
        pass: &Directive,
    ) -> Option<PassTarget> {
        let url = pass_url::resolve_url(context, location, pass)?;
        let upstream = UpstreamId { scheme: url.scheme, authority: url.authority.clone() };
        let is_upstream = context.upstreams.iter().any(|known| known.name == url.authority);
        if is_upstream {
            self.used_upstreams.insert(url.authority.clone());
        }
        let tls = match url.scheme {
            "https" => {
                let host = is_upstream.then_some(url.authority.as_str());
                tls::build_pool_tls(context, &location.verification, pass, host)
            }
            _ => PoolTlsKeys::default(),
        };
        context.report.carried_count += 1;
        let is_same =
            |pool: &&ImportedPool| (&pool.upstream, &pool.tls, &pool.api_key) == (&upstream, &tls, &location.api_key);
        if let Some(pool) = self.pools.iter().find(is_same) {
            return Some(PassTarget { pool: pool.name.clone(), uri: url.uri });
        }
        let Some(servers) = servers::resolve_servers(context, &url, pass) else {
            context.report.carried_count = context.report.carried_count.saturating_sub(1);
            return None;
        };
        if !is_upstream && self.pools.iter().any(|pool| pool.upstream == upstream) {
            let reason = "another location sends another Authorization there, or verifies it otherwise: a second pool";
            context.report.add_note(pass, reason);
        }
        let pool = ImportedPool {
            name: self.choose_name(&upstream),
            upstream,
            replicas: servers.replicas,
            policy: servers.policy,
            sticky: servers.sticky,
            api_key: location.api_key.clone(),
            tls,
            source_comment: servers.source_comment,
        };
        let name = pool.name.clone();
        self.pools.push(pool);
        Some(PassTarget { pool: name, uri: url.uri })
    }

    fn choose_name(&self, upstream: &UpstreamId) -> String {
        let is_free = |name: &str| !self.pools.iter().any(|pool| pool.name == name);
        let UpstreamId { scheme, authority } = upstream;
        let has_other_scheme =
            |pool: &ImportedPool| pool.upstream.authority == *authority && pool.upstream.scheme != *scheme;
        let with_scheme = self.pools.iter().any(has_other_scheme).then(|| format!("{scheme}://{authority}"));
        let numbered = (2..).map(|number| format!("{authority}#{number}"));
        let mut names = std::iter::once(authority.clone()).chain(with_scheme).chain(numbered);
        names.find(|name| is_free(name)).unwrap_or_default()
    }

    /// Remarks on the upstreams that no `proxy_pass` names, and on those that become several pools.
    pub(super) fn report_upstreams(&self, context: &mut ImportContext) {
        for upstream in &context.upstreams {
            let count = self.pools.iter().filter(|pool| pool.upstream.authority == upstream.name).count();
            let (kind, reason) = match count {
                0 if !self.used_upstreams.contains(&upstream.name) => {
                    (RemarkKind::NotNeeded, "no proxy_pass leads to it".to_owned())
                }
                0 | 1 => continue,
                _ => (
                    RemarkKind::Note,
                    format!(
                        "its locations differ in scheme, Authorization or TLS, so it becomes {count} pools, each with \
                         its own rotation and failure counts"
                    ),
                ),
            };
            context.report.add_remark_at(kind, upstream.directive_text.clone(), upstream.source_line.clone(), reason);
        }
    }
}
