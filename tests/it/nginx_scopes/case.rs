//! The configurations of the comparison.
//!
//! A case is a file of `tests/nginx-scopes` or `tests/nginx-import`. Its ports stand for others: 8080 to 8089 for TCP
//! listeners, 8440 to 8449 for TLS ones, 9001 to 9007 for replicas, 9008 and 9009 for ports without a listener, and
//! `/tmp/tokenweir-PORT.sock` for Unix sockets of both. `CERTS`, `LOGS` and `RESOLVER` stand for a folder of
//! certificates, a folder of logs and the address of a DNS server. Comments have the requests (`requests.rs`), and:
//!
//! - `# stops` at the end of a line: the import must fail with an error at this line, and at no other.
//! - `# differs: NAME ...`: the listed differences that the case may show (`differences.rs`).
//! - `# not in nginx: REASON`: this nginx has no such directive, so the file is not checked with `nginx -t`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use super::conf_words::{ConfDirective, read_directives};

/// Ports for listeners, outside of those that the system gives to clients.
const LISTENER_PORTS: std::ops::Range<u16> = 22_500..23_000;

/// A configuration with placeholders.
#[derive(Clone, Debug)]
pub(crate) struct ScopeCase {
    /// The file's name without `.conf`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A configuration with real ports and paths.
pub(crate) struct PreparedCase {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) directives: Vec<ConfDirective>,
    pub(crate) listeners: Vec<CaseListener>,
    /// The real ports with their placeholders.
    ports: BTreeMap<u16, u16>,
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaseListener {
    /// The words of `listen`.
    pub(crate) words: String,
    pub(crate) address: ServerAddress,
    pub(crate) is_tls: bool,
}

/// A listener's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The places of a case's files.
pub(crate) struct CasePlaces {
    /// By the port in the configuration.
    pub(crate) replicas: BTreeMap<u16, SocketAddr>,
    /// The folder of the replicas' Unix sockets; each is called by its replica's TCP port: `31234.sock`.
    pub(crate) replica_sockets: PathBuf,
    /// Returns the real port of a listener.
    pub(crate) listener_port: fn(u16) -> u16,
    /// The folder of the listeners' Unix sockets.
    pub(crate) sockets: PathBuf,
    pub(crate) certificates: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) resolver: SocketAddr,
}

/// Returns the folder of the cases.
pub(crate) fn case_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nginx-scopes")
}

impl ScopeCase {
    /// Returns all cases, those of `tests/nginx-import` last.
    pub(crate) fn read_all() -> Vec<Self> {
        let folder = case_folder();
        let folders = [folder.clone(), folder.join("field"), folder.with_file_name("nginx-import")];
        folders.iter().flat_map(|folder| Self::read_folder(folder)).collect()
    }

    fn read_folder(folder: &Path) -> Vec<Self> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
        paths.sort();
        let read = |path: &PathBuf| Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            text: fs::read_to_string(path).unwrap(),
        };
        paths.iter().map(read).collect()
    }

    /// Returns the lines at which the import must fail.
    pub(crate) fn stop_lines(&self) -> Vec<usize> {
        let lines = self.text.lines().enumerate().filter(|(_, line)| line.ends_with("# stops"));
        lines.map(|(at, _)| at + 1).collect()
    }

    /// Returns the words of all comments `# KEY: WORD ...`.
    pub(crate) fn comment_words(&self, key: &str) -> Vec<&str> {
        comment_values(&self.text, key).into_iter().flat_map(str::split_whitespace).collect()
    }

    /// Replaces the placeholders.
    pub(crate) fn prepare(&self, places: &CasePlaces) -> PreparedCase {
        let mut text = self.text.replace("[::1]:9003", "127.0.0.1:9003");
        let folder = |path: &Path| path.display().to_string();
        for port in 9001..=9009_u16 {
            let socket = format!("/tmp/tokenweir-{port}.sock");
            text = text.replace(&socket, &format!("{}/{port}.sock", folder(&places.replica_sockets)));
        }
        text = text.replace("/tmp/tokenweir-", &format!("{}/", folder(&places.sockets)));
        text = text.replace("CERTS/", &format!("{}/", folder(&places.certificates)));
        text = text.replace("LOGS/", &format!("{}/", folder(&places.logs)));
        text = text.replace("RESOLVER", &places.resolver.to_string());
        let mut ports = BTreeMap::new();
        for (port, addr) in &places.replicas {
            text = replace_number(&text, *port, addr.port());
            ports.insert(addr.port(), *port);
        }
        for port in (8080..=8089).chain(8440..=8449) {
            if has_number(&text, port) {
                let real = (places.listener_port)(port);
                text = replace_number(&text, port, real);
                ports.insert(real, port);
            }
        }
        if !text.lines().any(|line| line.trim_start().starts_with("access_log")) {
            // Not at an address of nginx's package.
            text = text.replacen("http {", "http { access_log off;", 1);
        }
        let directives = read_directives(&text);
        let listeners = find_listeners(&directives);
        PreparedCase { name: self.name.clone(), text, directives, listeners, ports }
    }
}

impl PreparedCase {
    /// Returns the text of all comments `# KEY: TEXT`.
    pub(crate) fn comment_values(&self, key: &str) -> Vec<&str> {
        comment_values(&self.text, key)
    }

    /// Replaces real ports with their placeholders.
    pub(crate) fn restore_ports(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (real, port)| replace_number(&text, *real, *port))
    }

    /// Returns whether any listener is over TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_tls)
    }
}

fn comment_values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let start = format!("# {key}: ");
    text.lines().filter_map(|line| line.trim_start().strip_prefix(start.as_str())).map(str::trim_end).collect()
}

/// Returns the places of a number that is no part of a longer one or of a name.
fn number_places(text: &str, number: u16) -> Vec<usize> {
    let digits = number.to_string();
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = text.as_bytes();
    let alone = |at: &usize| !is_part(at.checked_sub(1).map(|at| &bytes[at])) && !is_part(bytes.get(at + digits.len()));
    text.match_indices(&digits).map(|(at, _)| at).filter(alone).collect()
}

fn has_number(text: &str, number: u16) -> bool {
    !number_places(text, number).is_empty()
}

fn replace_number(text: &str, number: u16, new: u16) -> String {
    let mut out = text.to_owned();
    let length = number.to_string().len();
    for at in number_places(text, number).into_iter().rev() {
        out.replace_range(at..at + length, &new.to_string());
    }
    out
}

/// Returns a port that is free at this moment; no two calls in a row return the same.
pub(crate) fn free_listener_port(_: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in LISTENER_PORTS {
        let port = LISTENER_PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % LISTENER_PORTS.len() as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {LISTENER_PORTS:?} is free");
}

fn find_listeners(directives: &[ConfDirective]) -> Vec<CaseListener> {
    let listens: Vec<&ConfDirective> = directives.iter().filter(|directive| directive.name == "listen").collect();
    // A wildcard takes the connections to all addresses that have no listener of their own.
    let is_taken = |addr: &str| listens.iter().any(|directive| directive.args[0] == addr);
    let mut found: Vec<CaseListener> = Vec::new();
    for directive in &listens {
        let word = directive.args[0].as_str();
        let is_tls = directive.args.iter().any(|word| word == "ssl");
        let addresses: Vec<ServerAddress> = match (word.strip_prefix("unix:"), word.rsplit_once(':')) {
            (Some(path), _) => vec![ServerAddress::Unix(path.into())],
            (None, Some(("*" | "0.0.0.0", port))) => wildcard_addresses(port, &is_taken),
            (None, Some(("localhost", port))) => vec![tcp_address(&format!("127.0.0.1:{port}"))],
            (None, Some(("[::]", port))) => vec![tcp_address(&format!("[::1]:{port}"))],
            (None, Some(_)) => vec![tcp_address(word)],
            (None, None) => wildcard_addresses(word, &is_taken),
        };
        for address in addresses {
            let listener = CaseListener { words: directive.args.join(" "), address, is_tls };
            match found.iter_mut().find(|known| known.address == listener.address) {
                Some(known) => known.is_tls |= is_tls,
                None => found.push(listener),
            }
        }
    }
    found
}

fn wildcard_addresses(port: &str, is_taken: &dyn Fn(&str) -> bool) -> Vec<ServerAddress> {
    let addresses = ["127.0.0.1", "127.0.0.2"].map(|ip| format!("{ip}:{port}"));
    let free: Vec<&String> = addresses.iter().filter(|addr| !is_taken(addr)).collect();
    free.into_iter().take(1).map(|addr| tcp_address(addr)).collect()
}

fn tcp_address(text: &str) -> ServerAddress {
    let addr: SocketAddr = text.parse().unwrap_or_else(|error| panic!("listen {text}: {error}"));
    ServerAddress::Tcp(addr)
}

#[test]
fn numbers_are_replaced_where_they_stand_alone() {
    let text = "listen 8080; server a:8080; # 18080 8080x 80801 x8080 /8080/";
    assert_eq!(replace_number(text, 8080, 22500), "listen 22500; server a:22500; # 18080 8080x 80801 x8080 /22500/");
}
