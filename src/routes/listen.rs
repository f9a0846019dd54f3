//! The addresses that accept clients.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A TCP port with TLS.
    Tls(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is not an address to listen on.
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
    /// Another word than `ssl` after the address.
    #[error("only `ssl` may follow the address, as in `443 ssl`")]
    UnsupportedOption,
    /// `ssl` after a Unix socket.
    #[error("`ssl` needs a TCP port")]
    UnixTls,
    /// A host name.
    #[error("`listen` takes IP addresses and no host name but `localhost`")]
    HostName,
    /// Nothing after `unix:`.
    #[error("the path after `unix:` is missing")]
    MissingPath,
}

impl ListenAddr {
    /// Returns whether both use the same port or socket, whether or not with TLS.
    pub fn has_same_address(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(a) | Self::Tls(a), Self::Tcp(b) | Self::Tls(b)) => a == b,
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }

    /// Returns the TCP address; `None` for a Unix socket.
    pub const fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ListenError;

    /// Parses what nginx's `listen` takes: `80`, `*:80`, `127.0.0.1:80`, `[::]:80`, `unix:/path`, `443 ssl`.
    ///
    /// *Errors*: the text is not an address, or has an unknown word behind it.
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

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "{address} ssl"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        text.parse::<ListenAddr>().map_or_else(|bad| bad.to_string(), |listen| listen.to_string())
    }

    #[test]
    fn listen_addresses_of_nginx_are_parsed() {
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
    fn bad_listen_address_is_refused_with_a_reason() {
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
