//! `tokenweir explain`: explains the choice of a request's replica, by a running router.

use std::net::SocketAddr;

use reqwest::header::ACCEPT;
use reqwest::{StatusCode, Url};

use super::args::ExplainArgs;
use super::config_source::{load_file, load_urls};
use super::http_client::{build_plain_client, root_cause};
use super::output::print_line;
use super::signals::block_on;
use super::token_env::read_token;

/// Help for errors about the admin listener's address.
const ADMIN_HELP: &str = "name the admin listener of a running router with `--admin ADDR` or `--config FILE`";

/// Prints the router's explanation of a request.
///
/// *Errors*: the router cannot be reached, or does not know the request.
pub(super) fn run(args: &ExplainArgs) -> Result<(), String> {
    let admin = admin_addr(args)?;
    let token = args.token_env.as_ref().map(|name| read_token(name)).transpose()?;
    print_line(block_on(fetch_explanation(admin, &args.id, token.as_deref()))?);
    Ok(())
}

/// Returns the address of the admin listener: the argument, else that of the configuration.
///
/// *Errors*: the configuration cannot be used, or it has no admin listener.
fn admin_addr(args: &ExplainArgs) -> Result<SocketAddr, String> {
    if let Some(admin) = args.admin {
        return Ok(admin);
    }
    let loaded = match &args.config {
        Some(path) => load_file(path)?,
        // A replica is needed, but not used.
        None => load_urls(&["http://127.0.0.1".to_owned()])?,
    };
    loaded.settings.admin.ok_or_else(|| "the router has no admin listener: `admin` is off".to_owned())
}

/// Returns the router's explanation as text.
///
/// *Errors*: as [`run`].
async fn fetch_explanation(admin: SocketAddr, id: &str, token: Option<&str>) -> Result<String, String> {
    let client = build_plain_client()?;
    let mut request = client.get(explanation_url(admin, id)?).header(ACCEPT, "text/plain");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|error| describe_failure(admin, &error))?;
    let status = response.status();
    let body = response.text().await;
    let body = body.map_err(|error| format!("the response of {admin} broke off: {}", root_cause(&error)))?;
    match (status, body.trim_end()) {
        (StatusCode::OK, text) => Ok(text.to_owned()),
        (_, "") => Err(format!("{admin} is not an admin listener: it answered {status}; {ADMIN_HELP}")),
        (_, message) => Err(format!("{admin}: {message}")),
    }
}

/// Returns the URL of a request's explanation.
///
/// *Errors*: the address has an IPv6 scope, which URLs cannot express.
fn explanation_url(admin: SocketAddr, id: &str) -> Result<Url, String> {
    let mut url: Url = format!("http://{admin}/explain")
        .parse()
        .map_err(|error| format!("{admin} cannot be the host of a URL: {error}; {ADMIN_HELP}"))?;
    url.path_segments_mut().expect("a URL with a host has path segments").push(id);
    Ok(url)
}

/// Returns the message for a request that got no response.
fn describe_failure(admin: SocketAddr, error: &reqwest::Error) -> String {
    let cause = root_cause(error);
    if error.is_connect() || error.is_timeout() {
        return format!("cannot reach the admin listener at {admin}: {cause}; {ADMIN_HELP}");
    }
    format!("{admin} is not an admin listener: {cause}; {ADMIN_HELP}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_cannot_leave_its_path_segment() {
        let admin = SocketAddr::from(([127, 0, 0, 1], 9464));
        let url = explanation_url(admin, "a-1/../x y?#%").unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:9464/explain/a-1%2F..%2Fx%20y%3F%23%25");
    }
}
