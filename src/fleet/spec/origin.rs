//! A replica's address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::{Authority, Uri};
use thiserror::Error;

use crate::fleet::UpstreamTls;

/// A replica's address: scheme, host, port and the path before `/v1`.
///
/// `http://h:8000`, `http://h:8000/`, `http://h:8000/v1` and `http://h:8000/v1/` are the same origin. One host with
/// different certificate verification is several origins, which share no connections. `unix:/path` and `http://unix:/path`
/// are a Unix socket, with `:/prefix` after it if its server has a path prefix, as in nginx.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    host: String,
    port: u16,
    path_prefix: String,
    /// The address to connect to, if each address of the host is a replica of its own.
    address: Option<IpAddr>,
    /// `None` for `http://`.
    tls: Option<UpstreamTls>,
    /// The Unix socket; `None` for TCP.
    socket: Option<Arc<Path>>,
}

const SOCKET_SCHEME: &str = "unix:";
/// The longest path that the kernel accepts, without the zero byte at its end: `sun_path` on Linux.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Error of parsing a replica's URL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OriginError {
    /// Not a URL.
    #[error("`{0}` is not a URL")]
    InvalidUrl(String),
    /// No scheme, or another than `http` and `https`.
    #[error("the URL must start with `http://`, `https://` or `unix:/`")]
    UnsupportedScheme,
    /// A user, query or fragment, which have no meaning in a replica's URL.
    #[error("`{0}` is not allowed in a replica's URL: it has a host, a port and at most a path")]
    UnexpectedPart(&'static str),
    /// Not the path of a Unix socket.
    #[error("`unix:` needs an absolute path of at most {MAX_SOCKET_PATH_BYTES} visible ASCII characters")]
    InvalidSocket,
}

impl Origin {
    /// Returns the host as a resolver takes it: an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port; 80 or 443 where the URL has none.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path before `/v1`: empty, or with a leading and no trailing slash.
    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// Returns the address to connect to; `None` where the host is resolved on connect.
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the same origin at one address of its host, and at this port.
    #[must_use]
    pub fn with_address(&self, address: IpAddr, port: u16) -> Self {
        Self { address: Some(address), port, ..self.clone() }
    }

    /// Returns the Unix socket to connect to; `None` for TCP.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Returns the `host:port`, or the `unix:/path`, to connect to: nginx's `$upstream_addr`.
    pub fn connect_addr(&self) -> String {
        if let Some(socket) = &self.socket {
            return format!("{SOCKET_SCHEME}{}", socket.display());
        }
        self.address.map_or_else(|| self.authority(), |address| SocketAddr::new(address, self.port).to_string())
    }

    /// Returns the default name of a replica: `host:port`, or `unix:/path`.
    pub fn default_name(&self) -> String {
        if self.socket.is_some() { self.connect_addr() } else { self.authority() }
    }

    /// Returns `host:port`, as in a `Host` header. A Unix socket has the host `localhost`, as in nginx.
    pub fn authority(&self) -> String {
        if self.socket.is_some() {
            return self.host.clone();
        }
        format!("{}:{}", self.host, self.port)
    }

    /// Returns `http` or `https`.
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Returns the certificate verification; `None` for `http`.
    pub const fn tls(&self) -> Option<&UpstreamTls> {
        self.tls.as_ref()
    }

    /// Parses what follows `unix:`.
    fn from_socket(text: &str) -> Result<Self, OriginError> {
        let (socket, path) = text.split_once(':').unwrap_or((text, ""));
        let is_path = socket.len() > 1 && socket.starts_with('/') && !socket.ends_with('/');
        let is_valid = is_path && socket.len() <= MAX_SOCKET_PATH_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_valid || !(path.is_empty() || path.starts_with('/')) {
            return Err(OriginError::InvalidSocket);
        }
        if let Some(part) = ["?", "#"].into_iter().find(|part| path.contains(part)) {
            return Err(OriginError::UnexpectedPart(part));
        }
        Ok(Self {
            host: "localhost".to_owned(),
            port: 80,
            path_prefix: path_prefix(path).to_owned(),
            address: None,
            tls: None,
            socket: Some(Path::new(socket).into()),
        })
    }

    /// Sets the certificate verification, if the scheme is `https`.
    pub fn set_tls(&mut self, tls: &UpstreamTls) {
        if let Some(current) = &mut self.tls {
            current.clone_from(tls);
        }
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if let Some(socket) = text.strip_prefix("http://").unwrap_or(text).strip_prefix(SOCKET_SCHEME) {
            return Self::from_socket(socket);
        }
        let Some((scheme, _)) = text.split_once("://") else { return Err(OriginError::UnsupportedScheme) };
        let (tls, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (None, 80),
            "https" => (Some(UpstreamTls::default()), 443),
            _ => return Err(OriginError::UnsupportedScheme),
        };
        if text.contains('#') {
            return Err(OriginError::UnexpectedPart("#"));
        }
        let uri: Uri = text.parse().map_err(|_| OriginError::InvalidUrl(text.to_owned()))?;
        let authority: &Authority = uri.authority().ok_or_else(|| OriginError::InvalidUrl(text.to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(OriginError::UnexpectedPart("user@"));
        }
        if uri.query().is_some() {
            return Err(OriginError::UnexpectedPart("?"));
        }
        let has_port = !authority.as_str().ends_with(authority.host());
        let port = authority.port_u16().or((!has_port).then_some(default_port));
        let Some(port) = port.filter(|p| *p != 0 && !authority.host().is_empty()) else {
            return Err(OriginError::InvalidUrl(text.to_owned()));
        };
        let path_prefix = path_prefix(uri.path()).to_owned();
        Ok(Self { host: authority.host().to_owned(), port, path_prefix, address: None, tls, socket: None })
    }
}

/// Returns the path before `/v1`, without a slash at its end.
fn path_prefix(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/')
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(socket) if self.path_prefix.is_empty() => write!(f, "{SOCKET_SCHEME}{}", socket.display()),
            Some(socket) => write!(f, "{SOCKET_SCHEME}{}:{}", socket.display(), self.path_prefix),
            None => write!(f, "{}://{}:{}{}", self.scheme(), self.host, self.port, self.path_prefix),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_and_without_v1_are_the_same_origin() {
        for url in ["http://a:8000", "http://a:8000/", "http://a:8000/v1", "HTTP://a:8000/v1/"] {
            assert_eq!(url.parse::<Origin>().unwrap().to_string(), "http://a:8000", "{url}");
        }
        assert_eq!("http://a:8000/llm/v1".parse::<Origin>().unwrap().path_prefix(), "/llm");
        assert_eq!("http://a:8000/llm/".parse::<Origin>().unwrap().path_prefix(), "/llm");
        assert_eq!("http://a".parse::<Origin>().unwrap().port(), 80);
        let secure: Origin = "HTTPS://a/v1/".parse().unwrap();
        assert_eq!((secure.port(), secure.to_string().as_str()), (443, "https://a:443"));
    }

    #[test]
    fn same_host_with_other_verification_is_another_origin() {
        let verified: Origin = "https://a".parse().unwrap();
        let mut unverified = verified.clone();
        unverified.set_tls(&UpstreamTls { trust_roots: crate::fleet::TrustRoots::Insecure, server_name: None });
        assert_ne!(verified, unverified);
        let mut plain: Origin = "http://a".parse().unwrap();
        plain.set_tls(&UpstreamTls::default());
        assert_eq!(plain.tls(), None);
    }

    #[test]
    fn ipv6_hosts_keep_their_brackets_in_the_authority_only() {
        let origin: Origin = "http://[::1]:8000/v1".parse().unwrap();
        assert_eq!((origin.host(), origin.authority().as_str()), ("::1", "[::1]:8000"));
    }

    #[test]
    fn unix_socket_is_an_origin_whose_host_is_localhost() {
        for text in ["unix:/run/a.sock", "http://unix:/run/a.sock", "unix:/run/a.sock:/", "unix:/run/a.sock:/v1"] {
            let origin: Origin = text.parse().unwrap();
            assert_eq!((origin.to_string().as_str(), origin.authority().as_str()), ("unix:/run/a.sock", "localhost"));
            assert_eq!(origin.default_name(), origin.connect_addr());
            assert_eq!(origin.socket(), Some(Path::new("/run/a.sock")));
        }
        let below: Origin = "unix:/run/a.sock:/llm/v1/".parse().unwrap();
        assert_eq!((below.path_prefix(), below.to_string().as_str()), ("/llm", "unix:/run/a.sock:/llm"));
        let long = format!("unix:/{}", "x".repeat(107));
        for invalid in ["unix:", "unix:a", "unix:/", "unix:/a/", "unix:/a b", "unix:/a:b", "unix://a\u{e9}", &long] {
            assert_eq!(invalid.parse::<Origin>(), Err(OriginError::InvalidSocket), "{invalid}");
        }
        assert_eq!("https://unix:/a".parse::<Origin>().unwrap_err(), OriginError::InvalidUrl("https://unix:/a".into()));
    }

    #[test]
    fn invalid_replica_urls_are_rejected() {
        for (url, error) in [
            ("10.0.0.1:8000", OriginError::UnsupportedScheme),
            ("ftp://a", OriginError::UnsupportedScheme),
            ("http://u@a:1", OriginError::UnexpectedPart("user@")),
            ("http://a:1/?x=1", OriginError::UnexpectedPart("?")),
            ("http://a:1/#x", OriginError::UnexpectedPart("#")),
            ("http://a:99999", OriginError::InvalidUrl("http://a:99999".to_owned())),
            ("http://a:0", OriginError::InvalidUrl("http://a:0".to_owned())),
            ("http://", OriginError::InvalidUrl("http://".to_owned())),
        ] {
            assert_eq!(url.parse::<Origin>().unwrap_err(), error, "{url}");
        }
    }
}
