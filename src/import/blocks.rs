//! nginx's blocks as collected from their directives.

use std::collections::BTreeMap;

use super::conditions::host_split::HostSplit;
use super::conditions::program::ProgramFault;
use super::conditions::verdict::ConditionVerdict;
use super::guard::BlockGuard;
use super::scoped_keys::{RankedValue, ScopedKeys};
use crate::config::Span;
use crate::fleet::MemberSpec;
use crate::import::syntax::directive::{Directive, SourceLine};
use crate::routes::ListenAddr;

/// The kind of block that a directive is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockScope {
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
pub(super) struct NginxServer {
    /// The directive without its block.
    pub(super) directive: Directive,
    pub(super) listens: Vec<NginxListen>,
    /// Whether it has a `listen`, even one that is left out. nginx's default is `*:80`.
    pub(super) has_listen: bool,
    /// In lower case, with wildcards. Empty: `""`, as in nginx.
    pub(super) names: Vec<NginxServerName>,
    pub(super) locations: Vec<NginxLocation>,
    /// Whether a `break` ends its rewrite directives.
    pub(super) has_break: bool,
    pub(super) return_directive: Option<Directive>,
    /// The `return` that answers every request.
    pub(super) answer: Option<NginxAnswer>,
    pub(super) certificates: ServedCertificates,
    /// `ssl_reject_handshake on`: it refuses TLS handshakes, and needs no certificate.
    pub(super) rejecting: Option<Directive>,
    /// The keys in force in the server.
    pub(super) keys: ScopedKeys,
    /// The values in force of the keys that the router has once.
    pub(super) router_keys: BTreeMap<&'static str, RankedValue>,
    /// What its conditions answer by the name in `Host`.
    pub(super) split: Option<HostSplit>,
    /// Its names with an answer of their own.
    pub(super) name_answers: Vec<(String, NginxAnswer)>,
    /// The answer for names that are not its own.
    pub(super) other_answer: Option<NginxAnswer>,
    /// What its conditions mean for its requests.
    pub(super) conditions: Option<Result<ConditionVerdict, ProgramFault>>,
    /// The named locations that lead to replicas.
    pub(super) named_proxies: Vec<String>,
    /// Each `rewrite` that cannot be carried over, in the server and its locations.
    pub(super) rewrites: Vec<Directive>,
}

impl NginxServer {
    pub(super) fn new(directive: &Directive) -> Self {
        Self {
            directive: directive.without_block(),
            listens: Vec::new(),
            has_listen: false,
            names: Vec::new(),
            locations: Vec::new(),
            has_break: false,
            return_directive: None,
            answer: None,
            certificates: ServedCertificates::default(),
            rejecting: None,
            keys: ScopedKeys::default(),
            router_keys: BTreeMap::new(),
            split: None,
            name_answers: Vec::new(),
            other_answer: None,
            conditions: None,
            named_proxies: Vec::new(),
            rewrites: Vec::new(),
        }
    }

    /// Returns whether any request to it reaches a replica.
    pub(super) fn leads_to_replicas(&self) -> bool {
        self.answer.is_none() && self.locations.iter().any(NginxLocation::leads_to_replicas)
    }
}

/// A name in `server_name`.
#[derive(Clone)]
pub(super) struct NginxServerName {
    /// A name such as `a.example`, `*.example`, `a.*` or `.example`; empty for requests without `Host`.
    pub(super) text: String,
    /// Whether it was a regular expression, which nginx tries after all names.
    pub(super) is_pattern: bool,
    pub(super) span: Span,
    pub(super) source_line: SourceLine,
}

/// A `listen`.
pub(super) struct NginxListen {
    pub(super) directive: Directive,
    pub(super) address: ListenAddr,
    /// Whether it has `default_server`.
    pub(super) is_default: bool,
    pub(super) is_tls: bool,
    /// Whether the router can listen there.
    pub(super) is_supported: bool,
}

/// The modifier of a `location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LocationKind {
    /// A prefix.
    Prefix,
    /// `^~`: a prefix that regular expressions do not override.
    FirmPrefix,
    /// `=`.
    Exact,
    /// `~`.
    Pattern,
    /// `~*`.
    PatternAnyCase,
}

impl LocationKind {
    /// Returns whether it is a prefix.
    pub(super) const fn is_prefix(self) -> bool {
        matches!(self, Self::Prefix | Self::FirmPrefix)
    }

    /// Returns whether it is a regular expression.
    pub(super) const fn is_pattern(self) -> bool {
        matches!(self, Self::Pattern | Self::PatternAnyCase)
    }
}

/// A `location` block: its own and inherited directives that a route needs.
pub(super) struct NginxLocation {
    /// The directive without its block.
    pub(super) directive: Directive,
    pub(super) kind: LocationKind,
    /// The path, or the regular expression.
    pub(super) path: String,
    pub(super) proxy_pass: Option<Directive>,
    /// What the conditions of its server and its own mean for its requests.
    pub(super) conditions: Option<Result<ConditionVerdict, ProgramFault>>,
    /// The methods of a `limit_except` that can be carried over.
    pub(super) methods: Option<Vec<String>>,
    /// Another `limit_except`.
    pub(super) limit_except: Option<Directive>,
    /// Another directive that answers its requests.
    pub(super) content_handler: Option<Directive>,
    /// Whether a `break` ends its rewrite directives.
    pub(super) has_break: bool,
    pub(super) return_directive: Option<Directive>,
    /// The `return` that answers its requests.
    pub(super) answer: Option<NginxAnswer>,
    /// Whether clients get a 404, whatever it has besides.
    pub(super) is_internal: bool,
    /// `rewrite ... break`.
    pub(super) rewrite: Option<Directive>,
    /// The key in the `Authorization` header for replicas.
    pub(super) api_key: Option<String>,
    pub(super) verification: UpstreamVerification,
    /// The keys in force in the location.
    pub(super) keys: ScopedKeys,
    /// The values of `set` in force, by name without `$`; `None`: not the same for all requests.
    pub(super) variables: BTreeMap<String, Option<String>>,
    /// The locations in its block.
    pub(super) nested: Vec<Self>,
}

impl NginxLocation {
    pub(super) fn new(directive: &Directive, kind: LocationKind, path: &str) -> Self {
        Self {
            directive: directive.without_block(),
            kind,
            path: path.to_owned(),
            proxy_pass: None,
            conditions: None,
            methods: None,
            limit_except: None,
            content_handler: None,
            has_break: false,
            return_directive: None,
            answer: None,
            is_internal: false,
            rewrite: None,
            api_key: None,
            verification: UpstreamVerification::default(),
            keys: ScopedKeys::default(),
            variables: BTreeMap::new(),
            nested: Vec::new(),
        }
    }

    /// Returns whether any request reaches a replica by it or a location in it.
    pub(super) fn leads_to_replicas(&self) -> bool {
        self.passes_requests() || self.nested.iter().any(Self::leads_to_replicas)
    }

    /// Returns whether its own requests reach replicas.
    pub(super) const fn passes_requests(&self) -> bool {
        self.proxy_pass.is_some() && self.answer.is_none() && !self.is_internal
    }

    /// Returns the place of its path.
    pub(super) fn path_span(&self) -> &Span {
        self.directive.args.last().map_or(&self.directive.name.span, |word| &word.span)
    }
}

/// What a `return` answers.
#[derive(Clone)]
pub(super) struct NginxAnswer {
    /// `answer` as TOML.
    pub(super) toml: String,
    pub(super) directive: Directive,
}

impl NginxAnswer {
    /// Returns whether it is an error.
    pub(super) fn refuses(&self) -> bool {
        self.directive.arg(0).parse::<u16>().is_ok_and(|status| status >= 400)
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
    /// Whether errors have it too: `add_header ... always`.
    pub(super) is_always: bool,
}

/// The inherited directives of one block. A list that is empty inherits that of the enclosing block.
#[derive(Default)]
pub(super) struct BlockLevel {
    /// Keys with one value.
    pub(super) values: BTreeMap<&'static str, RankedValue>,
    /// `proxy_set_header`.
    pub(super) request_headers: Vec<HeaderDirective>,
    /// `add_header`.
    pub(super) response_headers: Vec<HeaderDirective>,
    /// `proxy_hide_header`.
    pub(super) hidden_headers: Vec<String>,
    /// `set_real_ip_from`.
    pub(super) trusted_proxies: Vec<String>,
    /// `access_log`; `None` for `off` and logs that cannot be carried.
    pub(super) access_logs: Vec<Option<AccessLogTarget>>,
    /// `gzip_types`.
    pub(super) gzip_types: Vec<String>,
    /// `allow` and `deny`, as in `access`.
    pub(super) access_rules: Vec<String>,
    /// At most one of each rule.
    pub(super) guards: Vec<BlockGuard>,
    pub(super) error_pages: Vec<Directive>,
    pub(super) tls: BlockTls,
}

/// An access log as written in a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccessLogTarget {
    /// The path, `stdout`, `stderr` or `off`.
    pub(super) target: String,
    /// The name of the format in router.toml.
    pub(super) format: String,
}

/// The TLS directives of one block.
#[derive(Clone, Default)]
pub(super) struct BlockTls {
    pub(super) chains: Vec<Directive>,
    pub(super) keys: Vec<Directive>,
    pub(super) ca: Option<Directive>,
    pub(super) name: Option<Directive>,
    pub(super) verify: Option<Directive>,
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
    /// The directives of the open server that requests run through before a location is chosen.
    pub(super) server_program: Vec<Directive>,
    /// Outermost first; locations may be nested.
    pub(super) locations: Vec<NginxLocation>,
}

impl OpenBlocks {
    pub(super) const fn new() -> Self {
        Self {
            scope: BlockScope::Main,
            levels: Vec::new(),
            upstream: None,
            server: None,
            server_program: Vec::new(),
            locations: Vec::new(),
        }
    }

    /// Returns the inherited directives of the innermost block.
    pub(super) fn level(&mut self) -> Option<&mut BlockLevel> {
        self.levels.last_mut()
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

    /// Returns the `ssl_reject_handshake` that is on here.
    pub(super) fn rejecting_directive(&self) -> Option<Directive> {
        let guards = self.levels.iter().rev().flat_map(|level| &level.guards);
        let mut found = guards.filter(|guard| guard.directive.name.text == "ssl_reject_handshake");
        found.next().filter(|guard| !guard.is_neutral()).map(|guard| guard.directive.clone())
    }

    /// Returns the certificates in force here.
    pub(super) fn served_certificates(&self) -> ServedCertificates {
        let nearest = |pick: fn(&BlockTls) -> &Vec<Directive>| {
            let mut levels = self.levels.iter().rev().map(|level| pick(&level.tls));
            levels.find(|files| !files.is_empty()).cloned().unwrap_or_default()
        };
        ServedCertificates { chains: nearest(|l| &l.chains), keys: nearest(|l| &l.keys) }
    }
}
