//! The rule for the client's address behind proxies.

use http::HeaderName;

use crate::routes::IpNetwork;

/// The rule for the client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddressSettings {
    /// Proxies whose `header` is believed.
    pub trusted_proxies: Vec<IpNetwork>,
    /// Whether peers at Unix sockets are believed too.
    pub trusts_unix_sockets: bool,
    /// The header in which proxies write the client's address.
    pub header: HeaderName,
    /// Whether the client is the last address that is no trusted proxy's; otherwise it is the last address.
    pub recursive: bool,
}

impl Default for ClientAddressSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            trusts_unix_sockets: false,
            header: HeaderName::from_static("x-forwarded-for"),
            recursive: true,
        }
    }
}

impl ClientAddressSettings {
    /// Returns whether any peer is believed.
    pub const fn trusts_any_peer(&self) -> bool {
        self.trusts_unix_sockets || !self.trusted_proxies.is_empty()
    }
}
