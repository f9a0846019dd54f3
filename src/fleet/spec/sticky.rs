//! nginx's `sticky`, session affinity, as plain data.

use std::time::Duration;

/// How sessions are pinned to replicas. Independent of the policy, which chooses where the pin cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie set by the router names the replica.
    Cookie(StickyCookie),
    /// The router remembers which replica created a session.
    Learn {
        /// Variables that name a new session, read from the response; the first that is not empty counts.
        create: Vec<StickyVariable>,
        /// Variables that name a request's session; the first that is not empty counts.
        lookup: Vec<StickyVariable>,
        /// Time after which an unused session is forgotten.
        timeout: Duration,
    },
}

/// The cookie that names a replica, and its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StickyCookie {
    /// The cookie's name.
    pub name: String,
    /// `Max-Age` and `Expires`; `None` for a session cookie.
    pub expires: Option<Duration>,
    /// `Domain`; `None` for the request's host.
    pub domain: Option<String>,
    /// `Path`; `None` for no attribute.
    pub path: Option<String>,
    /// `HttpOnly`: scripts cannot read it.
    pub http_only: bool,
    /// `Secure`: sent over TLS only.
    pub secure: bool,
    /// `SameSite`; `None` for no attribute.
    pub same_site: Option<SameSite>,
}

/// The values of a cookie's `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Never sent with requests of other sites.
    Strict,
    /// Sent when the user follows a link.
    Lax,
    /// Always sent.
    None,
}

/// A variable that names a session. Header names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyVariable {
    /// `$cookie_NAME`: a cookie of the request.
    Cookie(String),
    /// `$http_NAME`: a header of the request.
    Header(String),
    /// `$upstream_cookie_NAME`: a cookie that the response sets.
    UpstreamCookie(String),
    /// `$upstream_http_NAME`: a header of the response.
    UpstreamHeader(String),
    /// The session that the client names, in a header or in the body.
    Session,
}

impl Sticky {
    /// Creates a `Learn` by a header of the request.
    pub fn from_header(name: &str, timeout: Duration) -> Self {
        let variables = vec![StickyVariable::Header(name.to_ascii_lowercase())];
        Self::Learn { create: variables.clone(), lookup: variables, timeout }
    }

    /// Creates a `Learn` by the session that the client names.
    pub fn from_session(timeout: Duration) -> Self {
        Self::Learn { create: vec![StickyVariable::Session], lookup: vec![StickyVariable::Session], timeout }
    }

    /// Returns whether it needs the session that the client names, perhaps in the body.
    pub fn needs_session(&self) -> bool {
        matches!(self, Self::Learn { lookup, .. } if lookup.contains(&StickyVariable::Session))
    }
}

impl SameSite {
    /// Returns the attribute's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

impl StickyVariable {
    /// Parses `$cookie_NAME`, `$http_NAME`, `$upstream_cookie_NAME` or `$upstream_http_NAME`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let header = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        let (kind, name) = ["$cookie_", "$http_", "$upstream_cookie_", "$upstream_http_"]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind)?)))?;
        let is_valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        is_valid.then(|| match kind {
            "$cookie_" => Self::Cookie(name.to_owned()),
            "$http_" => Self::Header(header(name)),
            "$upstream_cookie_" => Self::UpstreamCookie(name.to_owned()),
            _ => Self::UpstreamHeader(header(name)),
        })
    }
}

/// Returns the cookie token of a replica: 16 hexadecimal digits that do not reveal its name.
///
/// Source of the hash: FNV-1a, 64 bits, its bits mixed by MurmurHash3's finalizer.
pub(in crate::fleet) fn cookie_token(name: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    format!("{:016x}", hash ^ (hash >> 33))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_token_is_stable_and_reveals_no_address() {
        // Cookies set before an update must still work.
        assert_eq!(cookie_token("10.0.0.1:8000"), "555a206e0af70248");
        assert_ne!(cookie_token("10.0.0.1:8000"), cookie_token("10.0.0.2:8000"));
    }

    #[test]
    fn variables_parse_as_in_nginx() {
        assert_eq!(StickyVariable::parse("$cookie_sid"), Some(StickyVariable::Cookie("sid".to_owned())));
        assert_eq!(
            StickyVariable::parse("$http_X_Session_Id"),
            Some(StickyVariable::Header("x-session-id".to_owned()))
        );
        assert_eq!(
            StickyVariable::parse("$upstream_cookie_sid"),
            Some(StickyVariable::UpstreamCookie("sid".to_owned()))
        );
        for text in ["sid", "$cookie_", "$arg_x", "$cookie_a b"] {
            assert_eq!(StickyVariable::parse(text), None, "{text}");
        }
    }
}
