//! nginx's `sticky`: how a client stays on its replica, as plain data.

use std::time::Duration;

/// How clients are tied to replicas. It pins, and is no policy: where the pin cannot be kept the policy chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie of our own names the replica.
    Cookie(StickyCookie),
    /// The router remembers which replica made a session.
    Learn {
        /// What names a session once there is an answer; the first that is not empty counts.
        create: Vec<StickyVariable>,
        /// What names the session that a request belongs to; the first that is not empty counts.
        lookup: Vec<StickyVariable>,
        /// How long a session that is not used is remembered.
        timeout: Duration,
    },
}

/// The cookie that names a replica, and its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// How long browsers keep it; `None` for as long as they run.
    pub expires: Option<Duration>,
    /// The hosts that get it.
    pub domain: Option<String>,
    /// The paths that get it.
    pub path: Option<String>,
    /// Kept from scripts.
    pub http_only: bool,
    /// Sent over TLS only.
    pub secure: bool,
    /// Whether other sites' requests carry it.
    pub same_site: Option<SameSite>,
}

/// The values of a cookie's `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Not at all.
    Strict,
    /// Only when the user follows a link.
    Lax,
    /// Always.
    None,
}

/// What a session is named by. Header names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyVariable {
    /// `$cookie_NAME`: a cookie of the request.
    Cookie(String),
    /// `$http_NAME`: a header of the request.
    Header(String),
    /// `$upstream_cookie_NAME`: a cookie that the answer sets.
    UpstreamCookie(String),
    /// `$upstream_http_NAME`: a header of the answer.
    UpstreamHeader(String),
}

impl Sticky {
    /// A session named by a header of the request.
    pub fn from_header(name: &str, timeout: Duration) -> Self {
        let named = vec![StickyVariable::Header(name.to_ascii_lowercase())];
        Self::Learn { create: named.clone(), lookup: named, timeout }
    }
}

impl SameSite {
    /// The value as it is sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

impl StickyVariable {
    /// Reads `$cookie_NAME`, `$http_NAME`, `$upstream_cookie_NAME` or `$upstream_http_NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        let header = |name: &str| name.to_ascii_lowercase().replace('_', "-");
        let (kind, name) = ["$cookie_", "$http_", "$upstream_cookie_", "$upstream_http_"]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind)?)))?;
        let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        fits.then(|| match kind {
            "$cookie_" => Self::Cookie(name.to_owned()),
            "$http_" => Self::Header(header(name)),
            "$upstream_cookie_" => Self::UpstreamCookie(name.to_owned()),
            _ => Self::UpstreamHeader(header(name)),
        })
    }
}

/// A name as 16 hexadecimal digits that do not show it.
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
    fn a_mark_is_the_same_for_ever_and_shows_no_address() {
        // Cookies that were set before an update must go on to work.
        assert_eq!(cookie_token("10.0.0.1:8000"), "555a206e0af70248");
        assert_ne!(cookie_token("10.0.0.1:8000"), cookie_token("10.0.0.2:8000"));
    }

    #[test]
    fn variables_are_nginx_words() {
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
