//! The keys for the client's address.

use http::HeaderName;

use crate::config::parse::value::{ReadResult, TomlValue};
use crate::routes::IpNetwork;

pub(super) const EXPECTED_PROXIES: &str = "addresses and networks such as \"10.0.0.0/8\", \"fd00::1\" or \"unix:\"";
pub(super) const EXPECTED_HEADER: &str = "the name of a header such as \"X-Real-IP\"";

/// The word for peers at Unix sockets.
const UNIX_SOCKETS: &str = "unix:";

/// Proxies that are trusted.
pub(super) struct TrustedProxies {
    pub(super) networks: Vec<IpNetwork>,
    /// Whether peers at Unix sockets are among them.
    pub(super) has_unix_sockets: bool,
}

/// Reads the trusted proxies.
pub(super) fn parse_trusted_proxies(value: &TomlValue<'_>) -> ReadResult<TrustedProxies> {
    let proxies = value.map_list(parse_proxy)?;
    let has_unix_sockets = proxies.contains(&None);
    Ok(TrustedProxies { networks: proxies.into_iter().flatten().collect(), has_unix_sockets })
}

/// Returns a network; `None` for peers at Unix sockets.
fn parse_proxy(value: &TomlValue<'_>) -> ReadResult<Option<IpNetwork>> {
    match &*value.string()? {
        UNIX_SOCKETS => Ok(None),
        text => text.parse().map(Some).map_err(|()| value.invalid()),
    }
}

/// Reads the name of the header in which proxies write the client's address.
pub(super) fn parse_client_address_header(value: &TomlValue<'_>) -> ReadResult<HeaderName> {
    value.string()?.parse().map_err(|_| value.invalid())
}
