//! TLS: the certificates of servers, and how replicas behind `proxy_pass https://` are verified.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::remark::{Kind, Where};
use super::server::{Listening, Server};
use super::tree::Directive;
use super::walk::{Walk, quoted};
use crate::config::{Listen, is_file};

/// What has been gathered about TLS.
#[derive(Default)]
pub(super) struct Tls {
    /// Where relative paths begin.
    pub(super) folder: PathBuf,
    /// What the blocks around say, the outermost first; a block that says nothing inherits.
    levels: Vec<Level>,
    /// The directives that are carried once something that is routed uses them.
    all: Vec<Directive>,
    used: BTreeSet<Where>,
}

/// What one block says.
#[derive(Clone, Default)]
struct Level {
    chains: Vec<Directive>,
    keys: Vec<Directive>,
    ca: Option<Directive>,
    name: Option<Directive>,
    verify: Option<Directive>,
    /// A certificate or key cannot be read, so that those of this block are no pairs.
    broken: bool,
}

/// The certificates and keys that are in force in a server.
#[derive(Default)]
pub(super) struct Shown {
    chains: Vec<Directive>,
    keys: Vec<Directive>,
}

/// What is in force in a location about the replicas behind it.
#[derive(Clone, Default)]
pub(super) struct Verified {
    ca: Option<Directive>,
    name: Option<Directive>,
    verify: Option<Directive>,
}

/// A pool's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) ca: Option<String>,
    pub(super) name: Option<String>,
    /// Whether anybody is trusted.
    pub(super) blind: bool,
}

impl Tls {
    pub(super) fn enter(&mut self) {
        self.levels.push(Level::default());
    }

    pub(super) fn leave(&mut self) {
        self.levels.pop();
    }

    /// What is in force about replicas.
    pub(super) fn verified(&self) -> Verified {
        let nearest = |pick: fn(&Level) -> &Option<Directive>| self.levels.iter().rev().find_map(|l| pick(l).clone());
        Verified { ca: nearest(|l| &l.ca), name: nearest(|l| &l.name), verify: nearest(|l| &l.verify) }
    }

    /// What clients of a server are shown.
    pub(super) fn shown(&self) -> Shown {
        let nearest = |pick: fn(&Level) -> &Vec<Directive>| {
            let said = self.levels.iter().rev().find(|level| level.broken || !pick(level).is_empty());
            said.filter(|level| !level.broken).map(pick).cloned().unwrap_or_default()
        };
        Shown { chains: nearest(|l| &l.chains), keys: nearest(|l| &l.keys) }
    }

    fn path(&self, text: &str) -> String {
        self.folder.join(text).display().to_string()
    }
}

/// `ssl_certificate FILE`, `ssl_certificate_key FILE`, `proxy_ssl_trusted_certificate FILE`.
pub(super) fn file(walk: &mut Walk, directive: &Directive) {
    let text = directive.arg(0);
    let unread = text.contains('$') || ["data:", "engine:", "store:"].iter().any(|kind| text.starts_with(kind));
    if let (true, Some(level)) = (unread, walk.tls.levels.last_mut()) {
        level.broken |= directive.name.text.starts_with("ssl_");
        return walk.notes.cannot(directive, "certificates and keys are read from files, and there are no variables");
    }
    match text {
        _ if !is_file(text) => walk.wrong(directive, "a file"),
        _ => {
            let Some(level) = walk.tls.levels.last_mut() else { return };
            match directive.name.text.as_str() {
                "ssl_certificate" => level.chains.push(directive.clone()),
                "ssl_certificate_key" => level.keys.push(directive.clone()),
                _ => level.ca = Some(directive.clone()),
            }
            walk.tls.all.push(directive.clone());
        }
    }
}

/// `proxy_ssl_name NAME`.
pub(super) fn name(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "$proxy_host" => walk.notes.not_needed(directive, "that is the name that is looked for"),
        text if text.contains('$') => walk.notes.cannot(directive, "there are no variables"),
        text if text.parse::<IpAddr>().is_ok() => walk.notes.cannot(directive, "a certificate's address is the URL's"),
        text if !is_name(text) => walk.wrong(directive, "a host name"),
        _ => {
            let Some(level) = walk.tls.levels.last_mut() else { return };
            level.name = Some(directive.clone());
            walk.tls.all.push(directive.clone());
        }
    }
}

/// `proxy_ssl_verify on | off`.
pub(super) fn verify(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "on" => walk.notes.not_needed(directive, "replicas are verified"),
        "off" => walk.tls.all.push(directive.clone()),
        _ => return walk.wrong(directive, "on or off"),
    }
    if let Some(level) = walk.tls.levels.last_mut() {
        level.verify = Some(directive.clone());
    }
}

/// `ssl on | off`, which nginx has dropped.
pub(super) fn ssl(walk: &mut Walk, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.notes.not_needed(directive, "TLS is spoken where `listen` says so"),
        _ => walk.notes.cannot(directive, "nginx has no such directive any more: write `ssl` behind the address"),
    }
}

/// `ssl_protocols TLSv1.2 ...`.
pub(super) fn protocols(walk: &mut Walk, directive: &Directive) {
    let words = directive.texts();
    let old: Vec<&str> = words.iter().copied().filter(|word| !["TLSv1.2", "TLSv1.3"].contains(word)).collect();
    if !old.is_empty() {
        walk.notes.about(Kind::Cannot, old.join(", "), directive.place(), "the minimum is TLS 1.2".to_owned());
    } else if words.contains(&"TLSv1.2") {
        walk.notes.not_needed(directive, "1.2 and 1.3 are the versions of TLS there are");
    } else {
        walk.notes.cannot(directive, "TLS 1.2 is spoken as well");
    }
}

/// At the end of a `server` block: what its clients are shown.
pub(super) fn close(walk: &mut Walk) {
    let shown = walk.tls.shown();
    if let Some(server) = &mut walk.server {
        server.shown = shown;
    }
}

/// Whether TLS is spoken at an address: as in nginx, one `ssl` is for all servers of it.
pub(super) fn is_spoken(serving: &[&Server], address: &Listen) -> bool {
    serving.iter().flat_map(|server| &server.listens).any(|l| l.usable && l.tls && l.address == *address)
}

/// Carries the certificates for the addresses where TLS is spoken; without any, those addresses are left out.
pub(super) fn secure(
    walk: &mut Walk,
    addresses: Vec<Listen>,
    serving: &[&Server],
    default: Option<&Server>,
) -> Vec<Listen> {
    let speaks = |server: &Server| {
        let secure = |address: &Listen| is_spoken(serving, address);
        server.listens.iter().any(|listen| listen.usable && secure(&listen.address))
    };
    let all = default.into_iter().chain(serving.iter().copied()).filter(|server| speaks(server));
    if certificates(walk, all) {
        return addresses;
    }
    for Listening { what, at, .. } in serving.iter().flat_map(|server| &server.listens).filter(|l| l.usable && l.tls) {
        let why = "there is no ssl_certificate with its key for it, so this address is left out".to_owned();
        walk.notes.about(Kind::Cannot, what.clone(), at.clone(), why);
    }
    addresses.into_iter().filter(|listen| !matches!(listen, Listen::Tls(_))).collect()
}

/// Carries the certificates of `servers`, the one for unknown names first. Returns whether there are any.
fn certificates<'a>(walk: &mut Walk, servers: impl Iterator<Item = &'a Server>) -> bool {
    let (mut chains, mut keys): (Vec<&Directive>, Vec<&Directive>) = Default::default();
    for Shown { chains: more, keys: theirs } in servers.map(|server| &server.shown) {
        for (chain, key) in more.iter().zip(theirs) {
            let pair = (chain.arg(0), key.arg(0));
            if !chains.iter().zip(&keys).any(|(chain, key)| (chain.arg(0), key.arg(0)) == pair) {
                chains.push(chain);
                keys.push(key);
            }
            walk.tls.used.extend([chain.place(), key.place()]);
        }
    }
    for (name, files) in [("tls.certificate", &chains), ("tls.key", &keys)] {
        let paths: Vec<String> = files.iter().map(|file| quoted(&walk.tls.path(file.arg(0)))).collect();
        let value = match paths.as_slice() {
            [] => return false,
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        if let Some(first) = files.first() {
            walk.set(name, value, 0, first);
            // They are counted one by one in the end.
            walk.notes.carried = walk.notes.carried.saturating_sub(1);
        }
    }
    true
}

/// The keys of a pool whose replicas are reached by `https://`; nginx looks for `host` in their certificates.
pub(super) fn keys(walk: &mut Walk, found: &Verified, pass: &Directive, host: Option<&str>) -> Keys {
    let off = found.verify.as_ref().filter(|verify| verify.arg(0) == "off");
    let used = [found.ca.as_ref().filter(|_| off.is_none()), found.name.as_ref(), off];
    walk.tls.used.extend(used.into_iter().flatten().map(Directive::place));
    let name = found.name.as_ref().map(|name| name.arg(0).to_owned());
    let mut keys = Keys { name, blind: off.is_some(), ca: None };
    if off.is_none() {
        keys.ca = found.ca.as_ref().map(|ca| walk.tls.path(ca.arg(0)));
    }
    if found.verify.is_none() {
        let why = "replicas' certificates are verified here, which nginx does only with proxy_ssl_verify: `tls_ca` \
                   names the issuer that is trusted, if it is not a public one";
        walk.notes.note(pass, why);
    } else if off.is_none() && keys.name.is_none() {
        keys.name = host.filter(|host| is_name(host) && host.parse::<IpAddr>().is_err()).map(str::to_owned);
    }
    keys
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Counts what was carried, and says what nothing has used.
pub(super) fn finish(walk: &mut Walk) {
    for directive in std::mem::take(&mut walk.tls.all) {
        if walk.tls.used.contains(&directive.place()) {
            walk.notes.carried += 1;
        } else {
            walk.notes.not_needed(&directive, "no TLS that is spoken here uses it");
        }
    }
}
