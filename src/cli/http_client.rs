//! The HTTP client of sub-commands that ask a running router.

use std::error::Error;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use crate::tls;

/// Longest duration of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a client without TLS.
///
/// *Errors*: the client cannot be set up.
pub(super) fn build_plain_client() -> Result<Client, String> {
    build_client(new_builder().tls_backend_preconfigured(tls::empty_client_config()))
}

/// Returns a client that trusts the system's issuers.
///
/// *Errors*: the system has none, or the client cannot be set up.
pub(super) fn build_tls_client() -> Result<Client, String> {
    let config = tls::system_client_config().map_err(|error| format!("{error}; {}", error.help))?;
    build_client(new_builder().tls_backend_preconfigured(config))
}

/// Returns the settings of both: no redirect is followed, no proxy is used.
fn new_builder() -> ClientBuilder {
    Client::builder().no_proxy().redirect(Policy::none()).timeout(REQUEST_TIMEOUT)
}

fn build_client(builder: ClientBuilder) -> Result<Client, String> {
    builder.build().map_err(|error| format!("cannot set up the HTTP client: {}", root_cause(&error)))
}

/// Returns the last of a chain of errors: "connection refused", not "error sending request".
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
