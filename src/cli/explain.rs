//! `tokenweir explain`: explains the choice of a request's replica, by a running router.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::args::ExplainArgs;
use super::config_source::{load_file, load_urls};
use super::output::print_line;

/// The time for connecting, and for each read and write.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Prints the router's explanation of a request.
///
/// *Errors*: the router cannot be reached, or does not know the request.
pub(super) fn run(args: &ExplainArgs) -> Result<(), String> {
    let admin = admin_addr(args)?;
    let token = args.token_env.as_ref().map(|name| read_token(name)).transpose()?;
    let response = fetch_explanation(admin, &args.id, token.as_deref())
        .map_err(|error| format!("cannot reach the admin listener at {admin}: {error}"))?;
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{admin} is not an admin listener: the response is not HTTP"))?;
    if head.split(' ').nth(1) == Some("200") {
        print_line(body.trim_end());
        return Ok(());
    }
    Err(format!("{admin}: {}", body.trim_end()))
}

/// Returns the address of the admin listener: the argument, else that of the configuration.
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

/// Returns the token in the environment variable `name`.
fn read_token(name: &str) -> Result<String, String> {
    let token = std::env::var(name).map_err(|error| format!("cannot read the environment variable {name}: {error}"))?;
    let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    if is_token {
        Ok(token)
    } else {
        Err(format!("the environment variable {name} is not a token: only visible ASCII characters are allowed"))
    }
}

/// Returns the response with its head. The request is HTTP/1.0, so that the response is not chunked.
fn fetch_explanation(admin: SocketAddr, id: &str, token: Option<&str>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ADMIN_TIMEOUT)?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
    stream.set_write_timeout(Some(ADMIN_TIMEOUT))?;
    let id = percent_encode(id);
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(
        stream,
        "GET /explain/{id} HTTP/1.0\r\nhost: {admin}\r\n{token}accept: text/plain\r\nconnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Returns an id in the form of a path segment.
fn percent_encode(id: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    id.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_cannot_leave_its_path_segment() {
        assert_eq!(percent_encode("a-1/../x y\r\n?"), "a-1%2F..%2Fx%20y%0D%0A%3F");
    }
}
