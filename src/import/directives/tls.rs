//! TLS: the certificates of servers, and how replicas behind `proxy_pass https://` are verified.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::server::{NginxListen, NginxServer};
use crate::config::{ListenAddr, is_file_path};
use crate::import::context::{ImportContext, quote_toml};
use crate::import::report::{RemarkKind, SourceLine};
use crate::import::syntax::parser::Directive;

/// What has been gathered about TLS.
#[derive(Default)]
pub(in crate::import) struct NginxTls {
    /// Where relative paths begin.
    pub(in crate::import) folder: PathBuf,
    /// What the blocks around say, the outermost first; a block that says nothing inherits.
    block_stack: Vec<BlockTls>,
    /// The directives that are carried once something that is routed uses them.
    directives: Vec<Directive>,
    used_lines: BTreeSet<SourceLine>,
}

/// What one block says.
#[derive(Clone, Default)]
struct BlockTls {
    chains: Vec<Directive>,
    keys: Vec<Directive>,
    ca: Option<Directive>,
    name: Option<Directive>,
    verify: Option<Directive>,
    /// A certificate or key cannot be read, so that those of this block are no pairs.
    has_unreadable_file: bool,
}

/// The certificates and keys that are in force in a server.
#[derive(Default)]
pub(in crate::import) struct ServedCertificates {
    chains: Vec<Directive>,
    keys: Vec<Directive>,
}

/// What is in force in a location about the replicas behind it.
#[derive(Clone, Default)]
pub(in crate::import) struct UpstreamVerification {
    ca: Option<Directive>,
    name: Option<Directive>,
    verify: Option<Directive>,
}

/// A pool's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::import) struct PoolTlsKeys {
    pub(in crate::import) ca: Option<String>,
    pub(in crate::import) name: Option<String>,
    /// Whether anybody is trusted.
    pub(in crate::import) is_insecure: bool,
}

impl NginxTls {
    pub(in crate::import) fn push_block(&mut self) {
        self.block_stack.push(BlockTls::default());
    }

    pub(in crate::import) fn pop_block(&mut self) {
        self.block_stack.pop();
    }

    /// What is in force about replicas.
    pub(in crate::import) fn upstream_verification(&self) -> UpstreamVerification {
        let nearest =
            |pick: fn(&BlockTls) -> &Option<Directive>| self.block_stack.iter().rev().find_map(|l| pick(l).clone());
        UpstreamVerification { ca: nearest(|l| &l.ca), name: nearest(|l| &l.name), verify: nearest(|l| &l.verify) }
    }

    /// What clients of a server are shown.
    pub(in crate::import) fn served_certificates(&self) -> ServedCertificates {
        let nearest = |pick: fn(&BlockTls) -> &Vec<Directive>| {
            let said = self.block_stack.iter().rev().find(|level| level.has_unreadable_file || !pick(level).is_empty());
            said.filter(|level| !level.has_unreadable_file).map(pick).cloned().unwrap_or_default()
        };
        ServedCertificates { chains: nearest(|l| &l.chains), keys: nearest(|l| &l.keys) }
    }

    fn resolve_path(&self, text: &str) -> String {
        self.folder.join(text).display().to_string()
    }
}

/// `ssl_certificate FILE`, `ssl_certificate_key FILE`, `proxy_ssl_trusted_certificate FILE`.
pub(in crate::import) fn handle_certificate_file(walk: &mut ImportContext, directive: &Directive) {
    let text = directive.arg(0);
    let unread = text.contains('$') || ["data:", "engine:", "store:"].iter().any(|kind| text.starts_with(kind));
    if let (true, Some(level)) = (unread, walk.tls.block_stack.last_mut()) {
        level.has_unreadable_file |= directive.name.text.starts_with("ssl_");
        return walk
            .report
            .add_impossible(directive, "certificates and keys are read from files, and there are no variables");
    }
    match text {
        _ if !is_file_path(text) => walk.reject_argument(directive, "a file"),
        _ => {
            let Some(level) = walk.tls.block_stack.last_mut() else { return };
            match directive.name.text.as_str() {
                "ssl_certificate" => level.chains.push(directive.clone()),
                "ssl_certificate_key" => level.keys.push(directive.clone()),
                _ => level.ca = Some(directive.clone()),
            }
            walk.tls.directives.push(directive.clone());
        }
    }
}

/// `proxy_ssl_name NAME`.
pub(in crate::import) fn handle_proxy_ssl_name(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "$proxy_host" => walk.report.add_not_needed(directive, "that is the name that is looked for"),
        text if text.contains('$') => walk.report.add_impossible(directive, "there are no variables"),
        text if text.parse::<IpAddr>().is_ok() => {
            walk.report.add_impossible(directive, "a certificate's address is the URL's");
        }
        text if !is_host_name(text) => walk.reject_argument(directive, "a host name"),
        _ => {
            let Some(level) = walk.tls.block_stack.last_mut() else { return };
            level.name = Some(directive.clone());
            walk.tls.directives.push(directive.clone());
        }
    }
}

/// `proxy_ssl_verify on | off`.
pub(in crate::import) fn handle_proxy_ssl_verify(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "on" => walk.report.add_not_needed(directive, "replicas are verified"),
        "off" => walk.tls.directives.push(directive.clone()),
        _ => return walk.reject_argument(directive, "on or off"),
    }
    if let Some(level) = walk.tls.block_stack.last_mut() {
        level.verify = Some(directive.clone());
    }
}

/// `ssl on | off`, which nginx has dropped.
pub(in crate::import) fn handle_ssl(walk: &mut ImportContext, directive: &Directive) {
    match directive.arg(0) {
        "off" => walk.report.add_not_needed(directive, "TLS is spoken where `listen` says so"),
        _ => walk
            .report
            .add_impossible(directive, "nginx has no such directive any more: write `ssl` behind the address"),
    }
}

/// `ssl_protocols TLSv1.2 ...`.
pub(in crate::import) fn handle_ssl_protocols(walk: &mut ImportContext, directive: &Directive) {
    let words = directive.arg_texts();
    let old: Vec<&str> = words.iter().copied().filter(|word| !["TLSv1.2", "TLSv1.3"].contains(word)).collect();
    if !old.is_empty() {
        walk.report.add_remark_at(
            RemarkKind::Impossible,
            old.join(", "),
            directive.source_line(),
            "the minimum is TLS 1.2".to_owned(),
        );
    } else if words.contains(&"TLSv1.2") {
        walk.report.add_not_needed(directive, "1.2 and 1.3 are the versions of TLS there are");
    } else {
        walk.report.add_impossible(directive, "TLS 1.2 is spoken as well");
    }
}

/// At the end of a `server` block: what its clients are shown.
pub(in crate::import) fn close_server(walk: &mut ImportContext) {
    let shown = walk.tls.served_certificates();
    if let Some(server) = &mut walk.current_server {
        server.certificates = shown;
    }
}

/// Whether TLS is spoken at an address: as in nginx, one `ssl` is for all servers of it.
pub(in crate::import) fn is_tls_address(serving: &[&NginxServer], address: &ListenAddr) -> bool {
    serving.iter().flat_map(|server| &server.listens).any(|l| l.is_supported && l.is_tls && l.address == *address)
}

/// Carries the certificates for the addresses where TLS is spoken; without any, those addresses are left out.
pub(in crate::import) fn secure_addresses(
    walk: &mut ImportContext,
    addresses: Vec<ListenAddr>,
    serving: &[&NginxServer],
    default: Option<&NginxServer>,
) -> Vec<ListenAddr> {
    let speaks = |server: &NginxServer| {
        let secure = |address: &ListenAddr| is_tls_address(serving, address);
        server.listens.iter().any(|listen| listen.is_supported && secure(&listen.address))
    };
    let all = default.into_iter().chain(serving.iter().copied()).filter(|server| speaks(server));
    if collect_certificates(walk, all) {
        return addresses;
    }
    for NginxListen { directive_text: what, source_line: at, .. } in
        serving.iter().flat_map(|server| &server.listens).filter(|l| l.is_supported && l.is_tls)
    {
        let why = "there is no ssl_certificate with its key for it, so this address is left out".to_owned();
        walk.report.add_remark_at(RemarkKind::Impossible, what.clone(), at.clone(), why);
    }
    addresses.into_iter().filter(|listen| !matches!(listen, ListenAddr::Tls(_))).collect()
}

/// Carries the certificates of `servers`, the one for unknown names first. Returns whether there are any.
fn collect_certificates<'a>(walk: &mut ImportContext, servers: impl Iterator<Item = &'a NginxServer>) -> bool {
    let (mut chains, mut keys): (Vec<&Directive>, Vec<&Directive>) = Default::default();
    for ServedCertificates { chains: more, keys: theirs } in servers.map(|server| &server.certificates) {
        for (chain, key) in more.iter().zip(theirs) {
            let pair = (chain.arg(0), key.arg(0));
            if !chains.iter().zip(&keys).any(|(chain, key)| (chain.arg(0), key.arg(0)) == pair) {
                chains.push(chain);
                keys.push(key);
            }
            walk.tls.used_lines.extend([chain.source_line(), key.source_line()]);
        }
    }
    for (name, files) in [("tls.certificate", &chains), ("tls.key", &keys)] {
        let paths: Vec<String> = files.iter().map(|file| quote_toml(&walk.tls.resolve_path(file.arg(0)))).collect();
        let value = match paths.as_slice() {
            [] => return false,
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        if let Some(first) = files.first() {
            walk.set_key(name, value, 0, first);
            // They are counted one by one in the end.
            walk.report.carried_count = walk.report.carried_count.saturating_sub(1);
        }
    }
    true
}

/// The keys of a pool whose replicas are reached by `https://`; nginx looks for `host` in their certificates.
pub(in crate::import) fn build_pool_tls(
    walk: &mut ImportContext,
    found: &UpstreamVerification,
    pass: &Directive,
    host: Option<&str>,
) -> PoolTlsKeys {
    let off = found.verify.as_ref().filter(|verify| verify.arg(0) == "off");
    let used = [found.ca.as_ref().filter(|_| off.is_none()), found.name.as_ref(), off];
    walk.tls.used_lines.extend(used.into_iter().flatten().map(Directive::source_line));
    let name = found.name.as_ref().map(|name| name.arg(0).to_owned());
    let mut keys = PoolTlsKeys { name, is_insecure: off.is_some(), ca: None };
    if off.is_none() {
        keys.ca = found.ca.as_ref().map(|ca| walk.tls.resolve_path(ca.arg(0)));
    }
    if found.verify.is_none() {
        let why = "replicas' certificates are verified here, which nginx does only with proxy_ssl_verify: `tls_ca` \
                   names the issuer that is trusted, if it is not a public one";
        walk.report.add_note(pass, why);
    } else if off.is_none() && keys.name.is_none() {
        keys.name = host.filter(|host| is_host_name(host) && host.parse::<IpAddr>().is_err()).map(str::to_owned);
    }
    keys
}

fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Counts what was carried, and says what nothing has used.
pub(in crate::import) fn finish_tls(walk: &mut ImportContext) {
    for directive in std::mem::take(&mut walk.tls.directives) {
        if walk.tls.used_lines.contains(&directive.source_line()) {
            walk.report.carried_count += 1;
        } else {
            walk.report.add_not_needed(&directive, "no TLS that is spoken here uses it");
        }
    }
}
