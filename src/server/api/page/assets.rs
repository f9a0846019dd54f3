//! The files of the live page, put together into one document.

use std::io::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;

use crate::tenants::KeyDigest;

const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("vendor/uPlot.min.css"), include_str!("page.css"));
/// The library and the parts of the page's own script, in the order in which they use each other.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("vendor/uPlot.iife.min.js"),
    "\n",
    include_str!("script/base.js"),
    include_str!("script/strip.js"),
    include_str!("script/pools.js"),
    include_str!("script/charts.js"),
    include_str!("script/tap.js"),
    include_str!("script/what_if.js"),
    include_str!("script/connect.js"),
    include_str!("script/feed.js"),
);
/// Where the table goes that browsers without scripts show.
const TABLE_MARK: &str = "<!--table-->";

/// The page with its style and script.
pub(super) static PAGE: LazyLock<LivePage> = LazyLock::new(LivePage::new);

/// The content security policy of all pages: only the page's own style and script run, and only this router is asked.
pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let [style, script] =
        [STYLE, SCRIPT].map(|text| BASE64_STANDARD.encode(KeyDigest::from_secret(text.as_bytes()).as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; \
         img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    // Base64 and the words above are visible ASCII.
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// The page in two parts, around the table.
pub(super) struct LivePage {
    before: String,
    after: String,
}

impl LivePage {
    fn new() -> Self {
        let page = DOCUMENT.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
        let (before, after) = page.split_once(TABLE_MARK).unwrap_or((&page, ""));
        Self { before: before.to_owned(), after: after.to_owned() }
    }

    /// Returns the page with a table, and its entity tag.
    pub(super) fn with_table(&self, table: &str) -> (Vec<u8>, String) {
        let body = [self.before.as_bytes(), table.as_bytes(), self.after.as_bytes()].concat();
        let digest = BASE64_STANDARD.encode(KeyDigest::from_secret(&body).as_bytes());
        let etag = format!("\"{digest}\"");
        (body, etag)
    }
}

/// Returns a page with only the table.
pub(super) fn plain_page(table: &str) -> String {
    document("tokenweir", table)
}

/// Returns the page with the form for the admin token.
pub(super) fn login_page(message: &str) -> String {
    document(
        "tokenweir: log in",
        &format!(
            "<main class=\"login\"><h1>tokenweir</h1><form method=\"post\" action=\"/login\">\
             <label for=\"token\">Admin token</label>\
             <input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\
             <button>Log in</button><p role=\"alert\">{message}</p></form></main>"
        ),
    )
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

/// Returns `body` compressed by gzip.
pub(super) fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    // Writing to memory cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_one_document_without_external_parts() {
        let (body, etag) = PAGE.with_table("<table></table>");
        let text = String::from_utf8(body).unwrap();
        assert!(!text.contains("/*style*/") && !text.contains("/*script*/") && text.contains("<table></table>"));
        assert_eq!((text.matches("<script>").count(), text.matches("<style>").count()), (1, 1));
        let own = DOCUMENT.to_owned()
            + include_str!("page.css")
            + &SCRIPT.replace(include_str!("vendor/uPlot.iife.min.js"), "");
        for external in ["src=\"http", "href=\"http", "url(http", "@import", "innerHTML", "eval("] {
            assert!(!own.contains(external), "{external}");
        }
        assert_ne!(PAGE.with_table("<table>1</table>").1, etag);
        let policy = POLICY.to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
}
