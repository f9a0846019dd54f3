//! nginx's blocks as collected from their directives.

use crate::fleet::MemberSpec;
use crate::import::syntax::directive::{Directive, SourceLine};
use crate::routes::ListenAddr;

/// The kind of block that a directive is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockScope {
    #[default]
    Main,
    Events,
    Http,
    Upstream,
    Server,
    Location,
}

/// An `upstream` block.
pub(super) struct NginxUpstream {
    pub(super) name: String,
    pub(super) directive_text: String,
    pub(super) source_line: SourceLine,
    pub(super) servers: Vec<NginxUpstreamServer>,
    /// The policy for router.toml; `None`: the default.
    pub(super) policy: Option<String>,
    /// The directive that the policy is from.
    pub(super) policy_directive: Option<(String, SourceLine)>,
    /// `sticky` as TOML.
    pub(super) sticky: Option<String>,
    /// The number of diagnostics before the block.
    pub(super) diagnostics_before: usize,
}

/// A `server` line of an upstream.
#[derive(Clone)]
pub(super) struct NginxUpstreamServer {
    /// `http://host:port`; the scheme is that of `proxy_pass`, set later.
    pub(super) url: String,
    /// The options for router.toml.
    pub(super) options: Vec<String>,
    pub(super) spec: MemberSpec,
}

/// A `server` block.
#[derive(Default)]
pub(super) struct NginxServer {
    /// Empty: nginx's default, `*:80`.
    pub(super) listens: Vec<NginxListen>,
    /// Lower case, without patterns.
    pub(super) names: Vec<String>,
    pub(super) locations: Vec<NginxLocation>,
    /// Whether a `return` of its own answers every request.
    pub(super) has_return: bool,
    /// Directives in locations with a pattern that refuse requests.
    pub(super) blocked_patterns: Vec<Directive>,
    /// The named locations that lead to replicas.
    pub(super) named_proxies: Vec<String>,
    /// `rewrite`, in the server and its locations.
    pub(super) rewrites: Vec<Directive>,
    pub(super) certificates: ServedCertificates,
}

/// A `listen`.
pub(super) struct NginxListen {
    pub(super) directive_text: String,
    pub(super) source_line: SourceLine,
    pub(super) address: ListenAddr,
    /// Whether it has `default_server`.
    pub(super) is_default: bool,
    pub(super) is_tls: bool,
    /// Whether the router can listen there.
    pub(super) is_supported: bool,
}

/// A `location` block: its own and inherited directives that a pool needs.
pub(super) struct NginxLocation {
    /// The directive without its block.
    pub(super) directive: Directive,
    pub(super) path: String,
    /// `location = /path`.
    pub(super) is_exact: bool,
    pub(super) proxy_pass: Option<Directive>,
    /// Another directive that answers its requests.
    pub(super) content_handler: Option<Directive>,
    /// The status of the refusal, if the location refuses its requests.
    pub(super) blocked_status: Option<u16>,
    /// The key in the `Authorization` header for replicas.
    pub(super) api_key: Option<String>,
    pub(super) request_headers: Vec<TomlHeader>,
    pub(super) response_headers: Vec<TomlHeader>,
    pub(super) verification: UpstreamVerification,
}

impl NginxLocation {
    pub(super) fn new(directive: Directive, path: String, is_exact: bool) -> Self {
        Self {
            directive,
            path,
            is_exact,
            proxy_pass: None,
            content_handler: None,
            blocked_status: None,
            api_key: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            verification: UpstreamVerification::default(),
        }
    }
}

/// A header's name and its values, for router.toml.
pub(super) type TomlHeader = (String, Vec<String>);

/// A header as written in a directive.
#[derive(Clone)]
pub(super) struct HeaderDirective {
    pub(super) name: String,
    pub(super) value: String,
    /// Whether router.toml must set it; the router sends the others without configuration.
    pub(super) must_set: bool,
}

/// The inherited directives of one block. A list that is empty inherits that of the enclosing block.
#[derive(Default)]
pub(super) struct BlockLevel {
    pub(super) scope: BlockScope,
    /// `proxy_set_header`.
    pub(super) request_headers: Vec<HeaderDirective>,
    /// `add_header`.
    pub(super) response_headers: Vec<HeaderDirective>,
    /// `proxy_hide_header`.
    pub(super) hidden_headers: Vec<String>,
    /// `allow` and `deny`.
    pub(super) access_rules: Vec<Directive>,
    /// At most one of each rule.
    pub(super) guards: Vec<BlockGuard>,
    /// `if` and `limit_except` on which requests depend; they are not inherited.
    pub(super) conditions: Vec<Directive>,
    pub(super) error_pages: Vec<Directive>,
    pub(super) tls: BlockTls,
}

/// Why a directive stops the import where it is in force for requests that reach replicas.
pub(super) struct GuardRule {
    /// First arguments with which it refuses nothing.
    pub(super) neutral: &'static [&'static str],
    pub(super) reason: &'static str,
}

/// A directive that keeps requests from replicas, in its block.
#[derive(Clone)]
pub(super) struct BlockGuard {
    pub(super) directive: Directive,
    pub(super) rule: &'static GuardRule,
}

impl BlockGuard {
    /// Returns whether it refuses nothing.
    pub(super) fn is_neutral(&self) -> bool {
        self.rule.neutral.contains(&self.directive.arg(0))
    }
}

/// The TLS directives of one block.
#[derive(Clone, Default)]
pub(super) struct BlockTls {
    pub(super) chains: Vec<Directive>,
    pub(super) keys: Vec<Directive>,
    pub(super) ca: Option<Directive>,
    pub(super) name: Option<Directive>,
    pub(super) verify: Option<Directive>,
    /// Whether a certificate or key cannot be carried, so that the block's others form no pairs.
    pub(super) has_unreadable_file: bool,
}

/// The certificates and keys in force in a server.
#[derive(Default)]
pub(super) struct ServedCertificates {
    pub(super) chains: Vec<Directive>,
    pub(super) keys: Vec<Directive>,
}

/// The directives on verifying replicas in force in a location.
#[derive(Clone, Default)]
pub(super) struct UpstreamVerification {
    pub(super) ca: Option<Directive>,
    pub(super) name: Option<Directive>,
    pub(super) verify: Option<Directive>,
}

/// The blocks that are being read.
pub(super) struct OpenBlocks {
    pub(super) scope: BlockScope,
    /// Outermost first.
    pub(super) levels: Vec<BlockLevel>,
    pub(super) upstream: Option<NginxUpstream>,
    pub(super) server: Option<NginxServer>,
    /// Outermost first; locations may be nested.
    pub(super) locations: Vec<NginxLocation>,
}

impl OpenBlocks {
    pub(super) const fn new() -> Self {
        Self { scope: BlockScope::Main, levels: Vec::new(), upstream: None, server: None, locations: Vec::new() }
    }

    /// Returns the inherited directives of the innermost block.
    pub(super) fn level(&mut self) -> Option<&mut BlockLevel> {
        self.levels.last_mut()
    }

    /// Returns the inherited directives of the open server.
    pub(super) fn server_level(&self) -> Option<&BlockLevel> {
        self.levels.iter().rev().find(|level| level.scope == BlockScope::Server)
    }

    /// Returns the innermost location.
    pub(super) fn location(&mut self) -> Option<&mut NginxLocation> {
        self.locations.last_mut()
    }

    /// Returns the directives on verifying replicas in force here.
    pub(super) fn upstream_verification(&self) -> UpstreamVerification {
        let nearest = |pick: fn(&BlockTls) -> &Option<Directive>| {
            self.levels.iter().rev().find_map(|level| pick(&level.tls).clone())
        };
        UpstreamVerification { ca: nearest(|l| &l.ca), name: nearest(|l| &l.name), verify: nearest(|l| &l.verify) }
    }

    /// Returns the certificates in force here.
    pub(super) fn served_certificates(&self) -> ServedCertificates {
        let nearest = |pick: fn(&BlockTls) -> &Vec<Directive>| {
            let mut levels = self.levels.iter().rev().map(|level| &level.tls);
            let found = levels.find(|level| level.has_unreadable_file || !pick(level).is_empty());
            found.filter(|level| !level.has_unreadable_file).map(pick).cloned().unwrap_or_default()
        };
        ServedCertificates { chains: nearest(|l| &l.chains), keys: nearest(|l| &l.keys) }
    }
}
