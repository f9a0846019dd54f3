//! The names of hosts, as in nginx's `server_name`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A name that requests ask for, or a pattern of such names. In lower case, without port and final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostName {
    /// This name only; the empty one is that of requests without `Host`.
    Exact(String),
    /// `*.example.com`: every name below, which ends in the text with its dot.
    Below(String),
    /// `.example.com`: the name itself and every name below it.
    WithBelow(String),
    /// `mail.*`: every name that begins with the text with its dot.
    Beginning(String),
}

/// A text that is no host name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a host is a name or an address without scheme and port; `*` stands for whole words at its beginning or end")]
pub struct HostNameError;

impl HostName {
    /// Returns the name as nginx's `$server_name` has it.
    pub(super) fn server_name(&self) -> String {
        match self {
            Self::WithBelow(name) => name.clone(),
            Self::Exact(_) | Self::Below(_) | Self::Beginning(_) => self.to_string(),
        }
    }

    /// Returns how well the name fits `host`: the higher, the better, in nginx's order; `None` if it does not.
    ///
    /// An exact name comes first, then the longest pattern with its `*` in front, then the longest with it behind.
    pub(super) fn fit(&self, host: &str) -> Option<(u8, usize)> {
        match self {
            Self::Exact(name) => (name == host).then_some((2, 0)),
            Self::WithBelow(name) if host.strip_suffix(name).is_some_and(str::is_empty) => Some((2, 0)),
            Self::Below(name) | Self::WithBelow(name) => {
                // nginx takes a word of no letters as one: `.example.com` is below `example.com`.
                host.strip_suffix(name.as_str())?.strip_suffix('.').map(|_| (1, name.len()))
            }
            Self::Beginning(name) => {
                let rest = host.strip_prefix(name.as_str())?.strip_prefix('.')?;
                (!rest.is_empty()).then_some((0, name.len()))
            }
        }
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    /// Parses a name, `*.name`, `.name` or `name.*`; an empty text stands for requests without `Host`.
    ///
    /// *Errors*: characters that no host has, or a `*` elsewhere.
    fn from_str(text: &str) -> Result<Self, HostNameError> {
        if text.is_empty() {
            return Ok(Self::Exact(String::new()));
        }
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (name, make): (_, fn(String) -> Self) = if let Some(name) = text.strip_prefix("*.") {
            (name, Self::Below)
        } else if let Some(name) = text.strip_prefix('.') {
            (name, Self::WithBelow)
        } else if let Some(name) = text.strip_suffix(".*") {
            (name, Self::Beginning)
        } else {
            (text.as_str(), Self::Exact)
        };
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if is_name || is_address { Ok(make(name.to_owned())) } else { Err(HostNameError) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::WithBelow(name) => write!(f, ".{name}"),
            Self::Beginning(name) => write!(f, "{name}.*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_in_nginx() {
        let fit = |name: &str, host: &str| name.parse::<HostName>().unwrap().fit(host);
        for (name, host, fits) in [
            ("A.example.", "a.example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", true),
            (".example", "example", true),
            (".example", "a.example", true),
            (".example", "aexample", false),
            ("mail.*", "mail.a.b", true),
            ("mail.*", "mail", false),
            ("mail.*", "mail.", false),
            ("[::1]", "[::1]", true),
            ("", "", true),
            ("", "a", false),
            ("*.example", "", false),
        ] {
            assert_eq!(fit(name, host).is_some(), fits, "{name} {host}");
        }
        assert!(fit("a.b", "a.b") > fit("*.b", "a.b") && fit("*.a.b", "c.a.b") > fit("*.b", "c.a.b"));
        assert!(fit("*.b", "a.b") > fit("a.*", "a.b") && fit(".a.b", "a.b") == fit("a.b", "a.b"));
    }

    #[test]
    fn server_name_is_that_of_nginx() {
        for (name, server_name) in
            [("A.example", "a.example"), (".example", "example"), ("*.example", "*.example"), ("mail.*", "mail.*")]
        {
            assert_eq!(name.parse::<HostName>().unwrap().server_name(), server_name);
        }
    }

    #[test]
    fn bad_name_is_refused_and_a_good_one_is_written_as_read() {
        for text in ["a:80", "http://a", "a*.b", "*", "*.*", "a b", "[::1", ".", "..", "~^a$"] {
            assert!(text.parse::<HostName>().is_err(), "{text}");
        }
        for text in ["", "a.b", "*.b", ".b", "a.*", "[::1]"] {
            assert_eq!(text.parse::<HostName>().unwrap().to_string(), text);
        }
    }
}
