//! `tokenweir explain`: asks a running router why a request went where it went.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use std::path::PathBuf;

use clap::Args;

use super::{load_config, print_line};

/// How long the router has.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The request's id: `X-Request-Id` of the answer
    id: String,
    /// The router's configuration file, which has the address of its admin listener
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// The address of the admin listener [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// The variable that holds the admin listener's token, if it asks for one
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
}

/// Prints what the router tells of a request.
pub(super) fn run(args: &ExplainArgs) -> Result<(), String> {
    let admin = match args.admin {
        Some(admin) => admin,
        None => {
            let urls = if args.config.is_some() { vec![] } else { vec!["http://127.0.0.1".to_owned()] };
            load_config(&args.config, &urls)?
                .settings
                .admin
                .ok_or("this router has no admin listener: `admin` is off")?
        }
    };
    let token = args.token_env.as_ref().map(|name| read_token(name)).transpose()?;
    let answer = fetch_explanation(admin, &args.id, token.as_deref())
        .map_err(|error| format!("cannot ask the router at {admin}: {error}"))?;
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{admin} is no router"))?;
    if head.split(' ').nth(1) == Some("200") {
        print_line(&mut std::io::stdout(), format_args!("{}", text.trim_end()));
        return Ok(());
    }
    Err(format!("{admin}: {}", text.trim_end()))
}

/// The token in the environment's variable `name`.
fn read_token(name: &str) -> Result<String, String> {
    let token = std::env::var(name).map_err(|error| format!("the variable {name}: {error}"))?;
    let fits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(token) } else { Err(format!("the variable {name} holds no token of visible ASCII characters")) }
}

/// The whole answer, its head included. HTTP/1.0, so that it comes unframed.
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
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// An id as a part of a path.
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
    fn an_id_cannot_leave_its_place() {
        assert_eq!(percent_encode("a-1/../x y\r\n?"), "a-1%2F..%2Fx%20y%0D%0A%3F");
    }
}
