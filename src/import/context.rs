//! From directive to directive: each is carried over or remarked on, and what is carried is gathered here.

use std::collections::BTreeMap;

use super::directives::headers::BlockDirectives;
use super::directives::server;
use super::directives::server::{NginxLocation, NginxServer};
use super::directives::table;
use super::directives::table::DirectiveRule;
use super::directives::tls;
use super::directives::tls::NginxTls;
use super::directives::upstream::NginxUpstream;
use super::report::{ImportReport, RemarkKind, SourceLine};
use super::syntax::parser::Directive;
use crate::config::IpNetwork;
use crate::config::parse::units;

/// What has been gathered.
pub(super) struct ImportContext {
    pub(super) report: ImportReport,
    /// Keys outside pools.
    pub(super) settings: BTreeMap<&'static str, ImportedKey>,
    pub(super) upstreams: Vec<NginxUpstream>,
    pub(super) servers: Vec<NginxServer>,
    /// `log_format`s.
    pub(super) log_formats: Vec<Directive>,
    /// The formats that `access_log`s name.
    pub(super) used_log_formats: Vec<String>,
    pub(super) scope: BlockScope,
    /// The blocks being read.
    pub(super) current_upstream: Option<NginxUpstream>,
    pub(super) current_server: Option<NginxServer>,
    pub(super) current_location: Option<NginxLocation>,
    /// What the blocks around say of headers and guards, the outermost first.
    pub(super) block_stack: Vec<BlockDirectives>,
    /// Directives on compression, judged together.
    pub(super) gzip_directives: Vec<Directive>,
    pub(super) tls: NginxTls,
}

/// The kind of block that a directive is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockScope {
    Main,
    Http,
    Upstream,
    Server,
    Location,
}

/// A key's value.
pub(super) struct ImportedKey {
    /// As TOML.
    pub(super) value: String,
    /// The greater one counts.
    rank: u128,
    source: (String, SourceLine),
}

impl ImportedKey {
    /// Whether it is not the sink for nothing.
    pub(super) fn is_on(&self) -> bool {
        self.value != "\"off\""
    }
}

impl ImportContext {
    pub(super) fn new(notes: ImportReport) -> Self {
        Self {
            report: notes,
            settings: BTreeMap::new(),
            upstreams: Vec::new(),
            servers: Vec::new(),
            log_formats: Vec::new(),
            used_log_formats: Vec::new(),
            scope: BlockScope::Main,
            current_upstream: None,
            current_server: None,
            current_location: None,
            block_stack: Vec::new(),
            gzip_directives: Vec::new(),
            tls: NginxTls::default(),
        }
    }

    /// Looks at all directives of a block of this kind.
    pub(super) fn read_block(&mut self, directives: &[Directive], scope: BlockScope) {
        let before = std::mem::replace(&mut self.scope, scope);
        self.block_stack.push(BlockDirectives::default());
        self.tls.push_block();
        // What a block inherits may stand behind it.
        let (blocks, lines): (Vec<_>, Vec<_>) = directives.iter().partition(|directive| directive.block.is_some());
        for directive in lines.into_iter().chain(blocks) {
            if !self.report.is_full() {
                self.read_directive(directive);
            }
        }
        if scope == BlockScope::Location {
            server::close_location(self);
        }
        if scope == BlockScope::Server {
            tls::close_server(self);
        }
        self.tls.pop_block();
        self.block_stack.pop();
        self.scope = before;
    }

    fn read_directive(&mut self, directive: &Directive) {
        let name = directive.name.text.as_str();
        match table::find_rule(name) {
            Some(DirectiveRule::Handler(carry)) => carry(self, directive),
            Some(DirectiveRule::Duration(key)) => self.set_duration_key(key, directive),
            Some(DirectiveRule::NotNeeded(why)) => self.report.add_not_needed(directive, *why),
            Some(DirectiveRule::Unsupported(why)) => self.report.add_unsupported(directive, *why),
            Some(DirectiveRule::Impossible(why)) => self.report.add_impossible(directive, *why),
            None => {
                let issue = directive.name.span.diagnostic(format!("unknown directive `{name}`"));
                self.report.add_diagnostic(match table::suggest_directive(name) {
                    Some(meant) => issue.with_help(format!("did you mean `{meant}`?")),
                    None => issue.with_help(
                        "nginx has no such directive; one of a module that is not known here is left out by hand",
                    ),
                });
            }
        }
    }

    /// Sets a key that there is one of for the whole router: the greatest rank counts, the first of equals.
    pub(super) fn set_key(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        let by = (directive.to_one_line(), directive.source_line());
        let only = |winner: &ImportedKey| {
            let (what, SourceLine { file, line }) = &winner.source;
            format!("there is one for the whole router: that of {file}:{line}, {what}")
        };
        match self.settings.get_mut(key) {
            Some(known) if known.value == value => self.report.carried_count += 1,
            Some(known) if known.rank < rank => {
                let (what, at) = std::mem::replace(known, ImportedKey { value, rank, source: by }).source;
                let why = only(known);
                self.report.add_remark_at(RemarkKind::Impossible, what, at, why);
            }
            Some(known) => {
                let why = only(known);
                self.report.add_impossible(directive, why);
            }
            None => {
                self.settings.insert(key, ImportedKey { value, rank, source: by });
                self.report.carried_count += 1;
            }
        }
    }

    /// Sets a key that goes with another, whose directive is counted there.
    pub(super) fn set_max(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        if self.settings.get(key).is_none_or(|known| known.rank < rank) {
            let by = (directive.to_one_line(), directive.source_line());
            self.settings.insert(key, ImportedKey { value, rank, source: by });
        }
    }

    fn set_duration_key(&mut self, key: &'static str, directive: &Directive) {
        let Some(text) = self.single_argument(directive, "a time", "60s") else { return };
        let Some(time) = units::parse_duration(&text) else {
            return self.reject_argument(directive, "a time such as 60s, 500ms or 5m");
        };
        if time.is_zero() && key != "timeouts.drain" {
            self.report.add_impossible(directive, "a time of 0 would end everything");
            return;
        }
        self.set_key(key, format_seconds(&text), time.as_nanos(), directive);
    }

    /// The argument of a directive that takes one.
    fn single_argument(&mut self, directive: &Directive, what: &str, example: &str) -> Option<String> {
        if let [word] = directive.args.as_slice() {
            return Some(word.text.clone());
        }
        let name = &directive.name.text;
        let issue =
            directive.name.span.diagnostic(format!("`{name}` takes {what}, not {} words", directive.args.len()));
        self.report.add_diagnostic(issue.with_help(format!("for example {name} {example};")));
        None
    }

    /// Says that the first argument is not what it must be.
    pub(super) fn reject_argument(&mut self, directive: &Directive, takes: &str) {
        let (name, at) = (&directive.name.text, directive.args.first().map_or(&directive.name.span, |word| &word.span));
        let given = directive.arg(0);
        let message =
            if given.is_empty() { format!("`{name}` needs a value") } else { format!("`{name}` cannot be `{given}`") };
        self.report.add_diagnostic(at.diagnostic(message).with_help(format!("`{name}` takes {takes}")));
    }

    /// Whether a directive is in a block where it may be; says so if not.
    pub(super) fn check_scope(&mut self, directive: &Directive, scopes: &[BlockScope], place: &str) -> bool {
        let fits = scopes.contains(&self.scope);
        if !fits {
            let issue = directive.name.span.diagnostic(format!("`{}` has no place here", directive.name.text));
            self.report.add_diagnostic(issue.with_help(format!("it belongs in {place}")));
        }
        fits
    }
}

/// `events` and `http`: only what is in them counts.
pub(super) fn handle_container(walk: &mut ImportContext, directive: &Directive) {
    let scope = if directive.name.text == "http" { BlockScope::Http } else { BlockScope::Main };
    if walk.check_scope(directive, &[BlockScope::Main], "no block") {
        walk.read_block(directive.block.as_deref().unwrap_or_default(), scope);
    }
}

/// `worker_processes auto | N`.
pub(super) fn handle_worker_processes(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "auto" => walk.set_key("workers", "0".to_owned(), 0, directive),
        text => match text.parse::<u16>() {
            Ok(count @ 1..=1024) => walk.set_key("workers", count.to_string(), 0, directive),
            _ => walk.reject_argument(directive, "`auto` or a number from 1 to 1024"),
        },
    }
}

/// `keepalive_timeout TIME [HEADER]`, for clients or, in an upstream, for replicas.
pub(super) fn handle_keepalive_timeout(walk: &mut ImportContext, directive: &Directive) {
    let key = if walk.scope == BlockScope::Upstream { "timeouts.upstream_keepalive" } else { "timeouts.keepalive" };
    match units::parse_duration(directive.arg(0)) {
        Some(time) => walk.set_key(key, format_seconds(directive.arg(0)), time.as_nanos(), directive),
        None => walk.reject_argument(directive, "a time such as 60s, 500ms or 5m"),
    }
}

/// `client_max_body_size SIZE`; 0 is no limit.
pub(super) fn handle_client_max_body_size(walk: &mut ImportContext, directive: &Directive) {
    match units::parse_size(directive.arg(0)) {
        Some(0) => {
            walk.set_key("limits.body_bytes", quote_toml("1GiB"), u128::MAX, directive);
            walk.report
                .add_note(directive, "nothing is without limit here: `in_flight_bytes` bounds all bodies together");
        }
        Some(bytes) => {
            let text = quote_toml(directive.arg(0));
            // What all bodies together may take by default is too little for one of this size.
            if bytes > 1 << 30 {
                walk.set_max("limits.in_flight_bytes", text.clone(), bytes as u128, directive);
            }
            walk.set_key("limits.body_bytes", text, bytes as u128, directive);
        }
        None => walk.reject_argument(directive, "a size such as 8m, 64k or a number of bytes"),
    }
}

/// `large_client_header_buffers NUMBER SIZE`.
pub(super) fn handle_large_client_header_buffers(walk: &mut ImportContext, directive: &Directive) {
    let (number, size) = (directive.arg(0).parse::<usize>().ok(), units::parse_size(directive.arg(1)));
    match number.zip(size).and_then(|(number, size)| Some((number.checked_mul(size)?, size))) {
        Some((all, one @ 1..)) => {
            let all = all.max(8 << 10);
            walk.set_key("limits.header_bytes", all.to_string(), all as u128, directive);
            walk.set_max("limits.uri_bytes", one.to_string(), one as u128, directive);
        }
        _ => walk.reject_argument(directive, "a number and a size, such as 4 8k"),
    }
}

/// `http2_max_concurrent_streams NUMBER`.
pub(super) fn handle_http2_max_concurrent_streams(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0).parse::<u32>() {
        Ok(count @ 1..) => walk.set_key("limits.streams_per_connection", count.to_string(), count.into(), directive),
        _ => walk.reject_argument(directive, "a number from 1"),
    }
}

/// `set_real_ip_from ADDRESS | NETWORK`, one more of those that are believed.
pub(super) fn handle_set_real_ip_from(walk: &mut ImportContext, directive: &Directive) {
    const TRUSTED_PROXIES_KEY: &str = "trusted_proxies";
    let text = directive.arg(0);
    if text.parse::<IpNetwork>().is_err() {
        return walk.report.add_impossible(directive, "only addresses and networks are believed");
    }
    let value = match walk.settings.get(TRUSTED_PROXIES_KEY) {
        Some(known) if known.value.contains(&quote_toml(text)) => known.value.clone(),
        Some(known) => format!("{}, {}]", known.value.trim_end_matches(']'), quote_toml(text)),
        None => format!("[{}]", quote_toml(text)),
    };
    let rank = value.len() as u128;
    walk.set_max(TRUSTED_PROXIES_KEY, value, rank, directive);
    walk.report.carried_count += 1;
}

/// A time as TOML: a bare number is of seconds in both languages, but reads better with its unit.
fn format_seconds(text: &str) -> String {
    let unit = if text.ends_with(|c: char| c.is_ascii_digit()) { "s" } else { "" };
    quote_toml(&format!("{text}{unit}"))
}

/// A text as TOML.
pub(super) fn quote_toml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
