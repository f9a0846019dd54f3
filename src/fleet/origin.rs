//! Where a replica is reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::uri::{Authority, Uri};
use thiserror::Error;

/// A replica's address: host, port and the path before `/v1`.
///
/// `http://h:8000`, `http://h:8000/`, `http://h:8000/v1` and `http://h:8000/v1/` are the same origin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    host: String,
    port: u16,
    prefix: String,
    /// Where connections go if the host is a name whose addresses are replicas of their own.
    address: Option<IpAddr>,
}

/// Why a URL does not name a replica.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadOrigin {
    /// It is no URL at all.
    #[error("`{0}` is not a URL")]
    NotUrl(String),
    /// It has no scheme, or one that replicas are not reached by.
    #[error("the URL must start with `http://`")]
    Scheme,
    /// Replicas behind TLS are not reached yet.
    #[error("`https://` replicas are not supported yet")]
    Tls,
    /// User, query or fragment have no meaning in a replica's URL.
    #[error("a replica's URL has a host, a port and at most a path: `{0}` has no place in it")]
    Extra(&'static str),
}

impl Origin {
    /// The host as a resolver wants it: an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, 80 where the URL had none.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The path that comes before `/v1`: empty, or with a slash in front and none behind.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The one address of a host that has several; `None` where whoever connects asks for the host's addresses.
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The same origin at one address of its host, and at this port.
    #[must_use]
    pub fn at(&self, address: IpAddr, port: u16) -> Self {
        Self { address: Some(address), port, ..self.clone() }
    }

    /// `host:port` of where connections go: nginx's `$upstream_addr`.
    pub fn place(&self) -> String {
        self.address.map_or_else(|| self.authority(), |address| SocketAddr::new(address, self.port).to_string())
    }

    /// `host:port`, as in a `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let Some((scheme, _)) = text.split_once("://") else { return Err(BadOrigin::Scheme) };
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(BadOrigin::Tls),
            _ => return Err(BadOrigin::Scheme),
        }
        if text.contains('#') {
            return Err(BadOrigin::Extra("#"));
        }
        let uri: Uri = text.parse().map_err(|_| BadOrigin::NotUrl(text.to_owned()))?;
        let authority: &Authority = uri.authority().ok_or_else(|| BadOrigin::NotUrl(text.to_owned()))?;
        if authority.as_str().contains('@') {
            return Err(BadOrigin::Extra("user@"));
        }
        if uri.query().is_some() {
            return Err(BadOrigin::Extra("?"));
        }
        let has_port = !authority.as_str().ends_with(authority.host());
        let port = authority.port_u16().or((!has_port).then_some(80));
        let Some(port) = port.filter(|p| *p != 0 && !authority.host().is_empty()) else {
            return Err(BadOrigin::NotUrl(text.to_owned()));
        };
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
        Ok(Self { host: authority.host().to_owned(), port, prefix: prefix.to_owned(), address: None })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
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
        assert_eq!("http://a:8000/llm/v1".parse::<Origin>().unwrap().prefix(), "/llm");
        assert_eq!("http://a:8000/llm/".parse::<Origin>().unwrap().prefix(), "/llm");
        assert_eq!("http://a".parse::<Origin>().unwrap().port(), 80);
    }

    #[test]
    fn ipv6_hosts_keep_their_brackets_in_the_authority_only() {
        let origin: Origin = "http://[::1]:8000/v1".parse().unwrap();
        assert_eq!((origin.host(), origin.authority().as_str()), ("::1", "[::1]:8000"));
    }

    #[test]
    fn what_is_no_replica_url_is_refused() {
        for (url, why) in [
            ("10.0.0.1:8000", BadOrigin::Scheme),
            ("ftp://a", BadOrigin::Scheme),
            ("https://a", BadOrigin::Tls),
            ("http://u@a:1", BadOrigin::Extra("user@")),
            ("http://a:1/?x=1", BadOrigin::Extra("?")),
            ("http://a:1/#x", BadOrigin::Extra("#")),
            ("http://a:99999", BadOrigin::NotUrl("http://a:99999".to_owned())),
            ("http://a:0", BadOrigin::NotUrl("http://a:0".to_owned())),
            ("http://", BadOrigin::NotUrl("http://".to_owned())),
        ] {
            assert_eq!(url.parse::<Origin>().unwrap_err(), why, "{url}");
        }
    }
}
