//! The URL of a `proxy_pass`.

use crate::import::blocks::NginxLocation;
use crate::import::context::ImportContext;
use crate::import::syntax::directive::Directive;

/// The parts of a `proxy_pass` URL.
pub(super) struct PassUrl {
    pub(super) scheme: &'static str,
    /// Host and port, `unix:` and a path, or the name of an upstream.
    pub(super) authority: String,
    /// Path and query; empty if there are none.
    pub(super) uri: String,
    /// Whether variables are in it, so that nginx looks up the host at run time.
    pub(super) is_dynamic: bool,
}

/// Returns the URL's parts; `None` and a diagnostic if it is no URL of replicas.
pub(super) fn resolve_url(context: &mut ImportContext, location: &NginxLocation, pass: &Directive) -> Option<PassUrl> {
    let word = pass.args.first()?;
    let written = word.text.as_str();
    let reject = |context: &mut ImportContext, message: &str, help: String| {
        context.report.add_diagnostic(word.span.diagnostic(message).with_help(help));
        None
    };
    let text = substitute_variables(written, location);
    let is_dynamic = written.contains('$');
    // The request's own path and query are what replicas get without a path.
    let text = if is_dynamic { text.strip_suffix("$request_uri").unwrap_or(&text) } else { &text };
    if text.contains('$') {
        let help = "`set` it to a constant in this block, or write the URL; `$request_uri` may follow it".to_owned();
        return reject(context, "this URL depends on the request", help);
    }
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let help = "a request line cannot contain them".to_owned();
        return reject(context, "this URL contains spaces or control characters", help);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (authority, uri) = match rest.strip_prefix("unix:") {
        // `http://unix:/path:/uri`.
        Some(path) => {
            let end = path.find(':').unwrap_or(path.len());
            (rest.get(.."unix:".len() + end)?, path.get(end + 1..).unwrap_or_default())
        }
        None => rest.split_at(rest.find('/').unwrap_or(rest.len())),
    };
    let scheme = match scheme {
        "http" => "http",
        "https" => "https",
        _ => return reject(context, "`proxy_pass` takes a URL", format!("did you mean `http://{rest}`?")),
    };
    if authority.is_empty() || authority == "unix:" {
        return reject(context, "`proxy_pass` takes a URL", "for example http://10.0.0.1:8000".to_owned());
    }
    if is_dynamic && !uri.is_empty() {
        let help = "write the URL without variables, or without a path".to_owned();
        return reject(context, "with variables, nginx sends this path for every request", help);
    }
    Some(PassUrl { scheme, authority: authority.to_owned(), uri: uri.to_owned(), is_dynamic })
}

/// Writes out the variables that are constants in the location.
fn substitute_variables(text: &str, location: &NginxLocation) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let braced = after.strip_prefix('{');
        let start = braced.unwrap_or(after);
        let end = start.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(start.len());
        let (name, after_name) = start.split_at(end);
        let after_name = if braced.is_some() { after_name.strip_prefix('}').unwrap_or(after_name) } else { after_name };
        match location.variables.get(name).cloned().flatten() {
            Some(value) => result.push_str(&value),
            None => {
                result.push('$');
                result.push_str(name);
            }
        }
        rest = after_name;
    }
    result + rest
}
