//! From directive to directive: each is carried over or remarked on, and what is carried is gathered here.

use std::collections::BTreeMap;

use super::headers::Level;
use super::remark::{Kind, Notes, Where};
use super::rules::{self, Fate};
use super::server::{self, Location, Server};
use super::tls::{self, Tls};
use super::tree::Directive;
use super::upstream::Upstream;
use crate::config::{Network, amount};

/// What has been gathered.
pub(super) struct Walk {
    pub(super) notes: Notes,
    /// Keys outside pools.
    pub(super) settings: BTreeMap<&'static str, Setting>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) servers: Vec<Server>,
    /// `log_format`s.
    pub(super) formats: Vec<Directive>,
    /// The formats that `access_log`s name.
    pub(super) named_formats: Vec<String>,
    pub(super) scope: Scope,
    /// The blocks being read.
    pub(super) upstream: Option<Upstream>,
    pub(super) server: Option<Server>,
    pub(super) location: Option<Location>,
    /// What the blocks around say of headers and guards, the outermost first.
    pub(super) levels: Vec<Level>,
    /// Directives on compression, judged together.
    pub(super) gzip: Vec<Directive>,
    pub(super) tls: Tls,
}

/// The kind of block that a directive is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Main,
    Http,
    Upstream,
    Server,
    Location,
}

/// A key's value.
pub(super) struct Setting {
    /// As TOML.
    pub(super) value: String,
    /// The greater one counts.
    rank: u128,
    by: (String, Where),
}

impl Setting {
    /// Whether it is not the sink for nothing.
    pub(super) fn is_on(&self) -> bool {
        self.value != "\"off\""
    }
}

impl Walk {
    pub(super) fn new(notes: Notes) -> Self {
        Self {
            notes,
            settings: BTreeMap::new(),
            upstreams: Vec::new(),
            servers: Vec::new(),
            formats: Vec::new(),
            named_formats: Vec::new(),
            scope: Scope::Main,
            upstream: None,
            server: None,
            location: None,
            levels: Vec::new(),
            gzip: Vec::new(),
            tls: Tls::default(),
        }
    }

    /// Looks at all directives of a block of this kind.
    pub(super) fn block(&mut self, directives: &[Directive], scope: Scope) {
        let before = std::mem::replace(&mut self.scope, scope);
        self.levels.push(Level::default());
        self.tls.enter();
        // What a block inherits may stand behind it.
        let (blocks, lines): (Vec<_>, Vec<_>) = directives.iter().partition(|directive| directive.block.is_some());
        for directive in lines.into_iter().chain(blocks) {
            if !self.notes.full() {
                self.directive(directive);
            }
        }
        if scope == Scope::Location {
            server::close(self);
        }
        if scope == Scope::Server {
            tls::close(self);
        }
        self.tls.leave();
        self.levels.pop();
        self.scope = before;
    }

    fn directive(&mut self, directive: &Directive) {
        let name = directive.name.text.as_str();
        match rules::find(name) {
            Some(Fate::By(carry)) => carry(self, directive),
            Some(Fate::Time(key)) => self.time(key, directive),
            Some(Fate::NotNeeded(why)) => self.notes.not_needed(directive, *why),
            Some(Fate::NotYet(why)) => self.notes.not_yet(directive, *why),
            Some(Fate::Cannot(why)) => self.notes.cannot(directive, *why),
            None => {
                let issue = directive.name.at.issue(format!("unknown directive `{name}`"));
                self.notes.issue(match rules::meant(name) {
                    Some(meant) => issue.help(format!("did you mean `{meant}`?")),
                    None => issue.help(
                        "nginx has no such directive; one of a module that is not known here is left out by hand",
                    ),
                });
            }
        }
    }

    /// Sets a key that there is one of for the whole router: the greatest rank counts, the first of equals.
    pub(super) fn set(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        let by = (directive.shown(), directive.place());
        let only = |winner: &Setting| {
            let (what, Where { file, line }) = &winner.by;
            format!("there is one for the whole router: that of {file}:{line}, {what}")
        };
        match self.settings.get_mut(key) {
            Some(known) if known.value == value => self.notes.carried += 1,
            Some(known) if known.rank < rank => {
                let (what, at) = std::mem::replace(known, Setting { value, rank, by }).by;
                let why = only(known);
                self.notes.about(Kind::Cannot, what, at, why);
            }
            Some(known) => {
                let why = only(known);
                self.notes.cannot(directive, why);
            }
            None => {
                self.settings.insert(key, Setting { value, rank, by });
                self.notes.carried += 1;
            }
        }
    }

    /// Sets a key that goes with another, whose directive is counted there.
    pub(super) fn raise(&mut self, key: &'static str, value: String, rank: u128, directive: &Directive) {
        if self.settings.get(key).is_none_or(|known| known.rank < rank) {
            let by = (directive.shown(), directive.place());
            self.settings.insert(key, Setting { value, rank, by });
        }
    }

    fn time(&mut self, key: &'static str, directive: &Directive) {
        let Some(text) = self.only_argument(directive, "a time", "60s") else { return };
        let Some(time) = amount::time(&text) else { return self.wrong(directive, "a time such as 60s, 500ms or 5m") };
        if time.is_zero() && key != "timeouts.drain" {
            self.notes.cannot(directive, "a time of 0 would end everything");
            return;
        }
        self.set(key, seconds(&text), time.as_nanos(), directive);
    }

    /// The argument of a directive that takes one.
    fn only_argument(&mut self, directive: &Directive, what: &str, example: &str) -> Option<String> {
        if let [word] = directive.args.as_slice() {
            return Some(word.text.clone());
        }
        let name = &directive.name.text;
        let issue = directive.name.at.issue(format!("`{name}` takes {what}, not {} words", directive.args.len()));
        self.notes.issue(issue.help(format!("for example {name} {example};")));
        None
    }

    /// Says that the first argument is not what it must be.
    pub(super) fn wrong(&mut self, directive: &Directive, takes: &str) {
        let (name, at) = (&directive.name.text, directive.args.first().map_or(&directive.name.at, |word| &word.at));
        let given = directive.arg(0);
        let message =
            if given.is_empty() { format!("`{name}` needs a value") } else { format!("`{name}` cannot be `{given}`") };
        self.notes.issue(at.issue(message).help(format!("`{name}` takes {takes}")));
    }

    /// Whether a directive is in a block where it may be; says so if not.
    pub(super) fn belongs(&mut self, directive: &Directive, scopes: &[Scope], place: &str) -> bool {
        let fits = scopes.contains(&self.scope);
        if !fits {
            let issue = directive.name.at.issue(format!("`{}` has no place here", directive.name.text));
            self.notes.issue(issue.help(format!("it belongs in {place}")));
        }
        fits
    }
}

/// `events` and `http`: only what is in them counts.
pub(super) fn container(walk: &mut Walk, directive: &Directive) {
    let scope = if directive.name.text == "http" { Scope::Http } else { Scope::Main };
    if walk.belongs(directive, &[Scope::Main], "no block") {
        walk.block(directive.block.as_deref().unwrap_or_default(), scope);
    }
}

/// `worker_processes auto | N`.
pub(super) fn workers(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "auto" => walk.set("workers", "0".to_owned(), 0, directive),
        text => match text.parse::<u16>() {
            Ok(count @ 1..=1024) => walk.set("workers", count.to_string(), 0, directive),
            _ => walk.wrong(directive, "`auto` or a number from 1 to 1024"),
        },
    }
}

/// `keepalive_timeout TIME [HEADER]`, for clients or, in an upstream, for replicas.
pub(super) fn keepalive_timeout(walk: &mut Walk, directive: &Directive) {
    let key = if walk.scope == Scope::Upstream { "timeouts.upstream_keepalive" } else { "timeouts.keepalive" };
    match amount::time(directive.arg(0)) {
        Some(time) => walk.set(key, seconds(directive.arg(0)), time.as_nanos(), directive),
        None => walk.wrong(directive, "a time such as 60s, 500ms or 5m"),
    }
}

/// `client_max_body_size SIZE`; 0 is no limit.
pub(super) fn body_size(walk: &mut Walk, directive: &Directive) {
    match amount::size(directive.arg(0)) {
        Some(0) => {
            walk.set("limits.body_bytes", quoted("1GiB"), u128::MAX, directive);
            walk.notes.note(directive, "nothing is without limit here: `in_flight_bytes` bounds all bodies together");
        }
        Some(bytes) => {
            let text = quoted(directive.arg(0));
            // What all bodies together may take by default is too little for one of this size.
            if bytes > 1 << 30 {
                walk.raise("limits.in_flight_bytes", text.clone(), bytes as u128, directive);
            }
            walk.set("limits.body_bytes", text, bytes as u128, directive);
        }
        None => walk.wrong(directive, "a size such as 8m, 64k or a number of bytes"),
    }
}

/// `large_client_header_buffers NUMBER SIZE`.
pub(super) fn header_buffers(walk: &mut Walk, directive: &Directive) {
    let (number, size) = (directive.arg(0).parse::<usize>().ok(), amount::size(directive.arg(1)));
    match number.zip(size).and_then(|(number, size)| Some((number.checked_mul(size)?, size))) {
        Some((all, one @ 1..)) => {
            let all = all.max(8 << 10);
            walk.set("limits.header_bytes", all.to_string(), all as u128, directive);
            walk.raise("limits.uri_bytes", one.to_string(), one as u128, directive);
        }
        _ => walk.wrong(directive, "a number and a size, such as 4 8k"),
    }
}

/// `http2_max_concurrent_streams NUMBER`.
pub(super) fn streams(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0).parse::<u32>() {
        Ok(count @ 1..) => walk.set("limits.streams_per_connection", count.to_string(), count.into(), directive),
        _ => walk.wrong(directive, "a number from 1"),
    }
}

/// `set_real_ip_from ADDRESS | NETWORK`, one more of those that are believed.
pub(super) fn trusted(walk: &mut Walk, directive: &Directive) {
    const KEY: &str = "trusted_proxies";
    let text = directive.arg(0);
    if text.parse::<Network>().is_err() {
        return walk.notes.cannot(directive, "only addresses and networks are believed");
    }
    let value = match walk.settings.get(KEY) {
        Some(known) if known.value.contains(&quoted(text)) => known.value.clone(),
        Some(known) => format!("{}, {}]", known.value.trim_end_matches(']'), quoted(text)),
        None => format!("[{}]", quoted(text)),
    };
    let rank = value.len() as u128;
    walk.raise(KEY, value, rank, directive);
    walk.notes.carried += 1;
}

/// A time as TOML: a bare number is of seconds in both languages, but reads better with its unit.
fn seconds(text: &str) -> String {
    let unit = if text.ends_with(|c: char| c.is_ascii_digit()) { "s" } else { "" };
    quoted(&format!("{text}{unit}"))
}

/// A text as TOML.
pub(super) fn quoted(text: &str) -> String {
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
