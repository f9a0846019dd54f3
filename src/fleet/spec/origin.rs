//! A replica's address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::uri::{Authority, Uri};
use thiserror::Error;

use crate::fleet::UpstreamTls;

/// A replica's address: scheme, host, port and the path before `/v1`.
///
/// `http://h:8000`, `http://h:8000/`, `http://h:8000/v1` and `http://h:8000/v1/` are the same origin. One host with
/// different certificate verification is several origins, which share no connections.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    host: String,
    port: u16,
    path_prefix: String,
    /// The address to connect to, if each address of the host is a replica of its own.
    address: Option<IpAddr>,
    /// `None` for `http://`.
    tls: Option<UpstreamTls>,
}

/// Error of parsing a replica's URL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OriginError {
    /// Not a URL.
    #[error("`{0}` is not a URL")]
    InvalidUrl(String),
    /// No scheme, or another than `http` and `https`.
    #[error("the URL must start with `http://` or `https://`")]
    UnsupportedScheme,
    /// A user, query or fragment, which have no meaning in a replica's URL.
    #[error("`{0}` is not allowed in a replica's URL: it has a host, a port and at most a path")]
    UnexpectedPart(&'static str),
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

    /// Returns the `host:port` to connect to: nginx's `$upstream_addr`.
    pub fn connect_addr(&self) -> String {
        self.address.map_or_else(|| self.authority(), |address| SocketAddr::new(address, self.port).to_string())
    }

    /// Returns `host:port`, as in a `Host` header.
    pub fn authority(&self) -> String {
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
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
        Ok(Self { host: authority.host().to_owned(), port, path_prefix: prefix.to_owned(), address: None, tls })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme(), self.host, self.port, self.path_prefix)
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
