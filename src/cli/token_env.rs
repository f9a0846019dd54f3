//! Secrets in environment variables.

/// Returns the token in the environment variable `name`.
///
/// *Errors*: the variable is not set, or it is not a token.
pub(super) fn read_token(name: &str) -> Result<String, String> {
    let token = std::env::var(name).map_err(|error| format!("cannot read the environment variable {name}: {error}"))?;
    let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    if is_token {
        Ok(token)
    } else {
        Err(format!("the environment variable {name} is not a token: only visible ASCII characters are allowed"))
    }
}
