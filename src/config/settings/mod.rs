//! What a configuration says, as plain data.

pub(super) mod network;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{HeaderRules, IpNetwork};
use crate::fleet::PoolSpec;
use crate::log_format::LogFormat;
use crate::telemetry::{LogLevel, TraceFile};
use crate::tenants::{KeyDigest, TenantTable};
use crate::units::Moment;

/// Everything that can be configured. `Settings::default()` has every default and no pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where clients are accepted; never empty.
    pub listen: Vec<ListenAddr>,
    /// Where metrics, status and administration are served; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Who may use the admin listener.
    pub admin_access: AdminAccess,
    /// Who may ask for models; nobody in particular: everybody.
    pub tenants: TenantTable,
    /// Worker threads; `None` for one per core.
    pub workers: Option<NonZeroUsize>,
    /// Whether answers name their replica in `X-Upstream`.
    pub x_upstream: bool,
    /// Whether a client that has ended its sending side is still served; otherwise it counts as one that has left.
    pub half_close: bool,
    /// How many decisions are kept to be explained; 0 for none.
    pub explain: usize,
    /// Whether answers tell of their decision in `X-Decision`.
    pub explain_header: bool,
    /// Who is believed about the client's address.
    pub trusted_proxies: Vec<IpNetwork>,
    /// How much is taken from clients.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Where logs go.
    pub log: LogSettings,
    /// Where traffic is written down.
    pub record: RecordSettings,
    /// Who is asked for the addresses of names with `resolve`.
    pub dns: DnsSettings,
    /// Who we are to clients that connect by TLS.
    pub tls: ServerCertificates,
    /// Which web pages may call; `None` for none.
    pub cors: Option<CorsSettings>,
    /// The size from which JSON answers are compressed for clients that take gzip; `None` for never.
    pub gzip: Option<usize>,
    /// Headers that are set on requests and answers.
    pub headers: HeaderRules,
    /// The replicas behind us, in configuration order; not empty once loaded.
    pub pools: Vec<PoolSpec>,
}

/// Where traffic is written down, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// The file; `None` for nowhere.
    pub path: Option<PathBuf>,
    /// The size from which a new file is begun.
    pub max_bytes: u64,
    /// How many older files are kept.
    pub max_files: usize,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A TCP port where connections begin with a TLS handshake.
    Tls(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Tells whether both are at one place, whatever is spoken there.
    pub fn has_same_address(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a) | Self::Tls(a), Self::Tcp(b) | Self::Tls(b)) => a == b,
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }
}

/// Who may use the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAccess {
    /// The hash of the token that is asked for; `None`: everybody who can connect may.
    pub token: Option<KeyDigest>,
    /// Whether `/metrics` asks for it too.
    pub metrics_need_token: bool,
}

/// How much is taken from clients. All at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest request body.
    pub body_bytes: usize,
    /// The bytes of request bodies held at once, all requests together; at least `body_bytes`.
    pub in_flight_bytes: usize,
    /// The largest request head; at least 8 KiB.
    pub header_bytes: usize,
    /// The most header lines of a request.
    pub headers: usize,
    /// The longest request target.
    pub uri_bytes: usize,
    /// The most client connections at once.
    pub connections: usize,
    /// The most requests for replicas at once, all pools together.
    pub in_flight_requests: usize,
    /// `max_in_flight` of the pools that have it, by name: the most requests for that pool at once.
    pub max_in_flight_by_pool: BTreeMap<Arc<str>, usize>,
    /// The most requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting to a replica.
    pub connect: Duration,
    /// From the request to the first event of a replica's stream, or the first byte of another answer; to which 1 ms is
    /// added for each token of the prompt.
    pub first_byte: Duration,
    /// From one event of a replica's stream, or piece of another answer, to the next.
    pub idle: Duration,
    /// From a request's end to the end of its answer, however often it is tried; 0 for no limit.
    pub total: Duration,
    /// Receiving a request's head.
    pub client_header: Duration,
    /// From one piece of a request's body to the next.
    pub client_body: Duration,
    /// How long a client that is sent something may take none of it.
    pub client_send: Duration,
    /// How long a 200 is held back for the first event of its stream, so that another replica can still be tried; 0 for
    /// not at all.
    pub first_event_hold: Duration,
    /// Between the comments that a client gets when its stream has a head and no event yet; 0 for none.
    pub waiting_comment: Duration,
    /// How long a client's idle connection is kept; 0 for not at all.
    pub keepalive: Duration,
    /// How long an idle connection to a replica is kept; 0 for not at all.
    pub upstream_keepalive: Duration,
    /// How long a stopping process waits for requests in flight.
    pub drain: Duration,
}

impl Timeouts {
    /// When the answer to a request that was complete then must have come; `None` for no limit.
    pub fn deadline_after(&self, complete: Moment) -> Option<Moment> {
        (!self.total.is_zero()).then(|| complete + self.total)
    }
}

/// Who is asked for the addresses of names, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// DNS servers; empty for the system's.
    pub servers: Vec<SocketAddr>,
    /// After that a question counts as failed.
    pub timeout: Duration,
}

/// Where logs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// One line per request.
    pub access: LogSink,
    /// How such a line is written.
    pub format: LogFormat,
    /// Formats by name.
    pub formats: BTreeMap<String, LogFormat>,
    /// What goes wrong.
    pub error: LogSink,
    /// What matters less stays out of it.
    pub level: LogLevel,
}

/// Where one log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// The certificates that clients are shown, each with its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCertificates {
    /// PEM files, each of one certificate with its issuers behind it. The first is for clients that no other is for; not
    /// empty once loaded if anything listens with TLS.
    pub chains: Vec<PathBuf>,
    /// PEM files of the private keys, as many and in the same order.
    pub keys: Vec<PathBuf>,
}

/// Which web pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsSettings {
    /// The allowed `Origin`s, `scheme://host[:port]` each, or `*` for all; never empty.
    pub origins: Vec<String>,
}

/// Why a text names no address to listen at.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ListenError {
    /// An address without a port.
    #[error("the port is missing: write `{0}:8080`")]
    MissingPort(&'static str),
    /// A port above 65535.
    #[error("ports go up to 65535")]
    PortOutOfRange,
    /// Only a port, with a colon.
    #[error("the address is missing: `*` is every IPv4 interface, `[::]` every interface")]
    MissingAddress,
    /// Words of nginx's behind the address that have no meaning here.
    #[error("behind the address only `ssl` has a place, as in `443 ssl`")]
    UnsupportedOption,
    /// `ssl` behind a Unix socket.
    #[error("TLS is spoken at TCP ports only")]
    UnixTls,
    /// A host name.
    #[error("only addresses can be listened at, `localhost` is the one name")]
    HostName,
    /// Nothing behind `unix:`.
    #[error("the path after `unix:` is missing")]
    MissingPath,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp((Ipv4Addr::LOCALHOST, 8080).into())],
            admin: Some((Ipv4Addr::LOCALHOST, 9464).into()),
            admin_access: AdminAccess::default(),
            tenants: TenantTable::default(),
            workers: None,
            x_upstream: true,
            half_close: false,
            explain: 1_000,
            explain_header: false,
            trusted_proxies: Vec::new(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            log: LogSettings::default(),
            record: RecordSettings::default(),
            dns: DnsSettings::default(),
            tls: ServerCertificates::default(),
            cors: None,
            gzip: None,
            headers: HeaderRules::default(),
            pools: Vec::new(),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ListenError;

    /// Reads what nginx's `listen` takes: `80`, `*:80`, `127.0.0.1:80`, `[::]:80`, `unix:/path`, `443 ssl`.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some((address, words)) = text.split_once(char::is_whitespace) {
            return match (words.trim(), address.parse()?) {
                ("ssl", Self::Tcp(address)) => Ok(Self::Tls(address)),
                ("ssl", _) => Err(ListenError::UnixTls),
                _ => Err(ListenError::UnsupportedOption),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(ListenError::MissingPath) } else { Ok(Self::Unix(path.into())) };
        }
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self::Tcp((Ipv4Addr::UNSPECIFIED, port).into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        if port.is_empty() || text.ends_with(']') || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ListenError::MissingPort(if text.contains(':') { "[::]" } else { "127.0.0.1" }));
        }
        let port = port.parse::<u16>().map_err(|_| ListenError::PortOutOfRange)?;
        match host {
            "*" => Ok(Self::Tcp((Ipv4Addr::UNSPECIFIED, port).into())),
            "localhost" => Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into())),
            "" => Err(ListenError::MissingAddress),
            _ => Err(ListenError::HostName),
        }
    }
}

impl ListenAddr {
    /// The port, if it is one.
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "{address} ssl"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Default for AdminAccess {
    fn default() -> Self {
        Self { token: None, metrics_need_token: true }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            in_flight_bytes: 1 << 30,
            header_bytes: 64 << 10,
            headers: 100,
            uri_bytes: 8 << 10,
            connections: 20_000,
            in_flight_requests: 20_000,
            max_in_flight_by_pool: BTreeMap::new(),
            streams_per_connection: 128,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(3_500),
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            total: Duration::ZERO,
            client_header: Duration::from_secs(10),
            client_body: Duration::from_secs(10),
            client_send: Duration::from_secs(60),
            first_event_hold: Duration::from_secs(10),
            waiting_comment: Duration::from_secs(15),
            keepalive: Duration::from_secs(75),
            upstream_keepalive: Duration::from_secs(4),
            drain: Duration::from_secs(300),
        }
    }
}

impl RecordSettings {
    /// The file, if there is to be one.
    pub fn trace_file(&self) -> Option<TraceFile> {
        let Self { path, max_bytes, max_files: keep } = self.clone();
        path.map(|path| TraceFile { path, max_bytes, max_files: keep })
    }
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self { path: None, max_bytes: 100 << 20, max_files: 3 }
    }
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(30) }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        let (format, formats) = (LogFormat::default(), BTreeMap::new());
        Self { access: LogSink::Stdout, format, formats, error: LogSink::Stderr, level: LogLevel::Info }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        text.parse::<ListenAddr>().map_or_else(|bad| bad.to_string(), |listen| listen.to_string())
    }

    #[test]
    fn listen_takes_what_nginx_takes() {
        for (text, wanted) in [
            ("80", "0.0.0.0:80"),
            ("*:80", "0.0.0.0:80"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:80", "[::]:80"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("443 ssl", "0.0.0.0:443 ssl"),
            ("[::1]:443  ssl", "[::1]:443 ssl"),
        ] {
            assert_eq!(round_trip(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_listened_at_is_refused_with_a_reason() {
        for (text, wanted) in [
            ("127.0.0.1", ListenError::MissingPort("127.0.0.1")),
            ("[::]", ListenError::MissingPort("[::]")),
            ("", ListenError::MissingPort("127.0.0.1")),
            ("99999", ListenError::PortOutOfRange),
            ("127.0.0.1:99999", ListenError::PortOutOfRange),
            (":80", ListenError::MissingAddress),
            ("443 ssl http2", ListenError::UnsupportedOption),
            ("80 reuseport", ListenError::UnsupportedOption),
            ("unix:/run/a.sock ssl", ListenError::UnixTls),
            ("99999 ssl", ListenError::PortOutOfRange),
            ("gpu1:80", ListenError::HostName),
            ("unix:", ListenError::MissingPath),
        ] {
            assert_eq!(text.parse::<ListenAddr>(), Err(wanted), "{text}");
        }
    }
}
