//! The table of replicas as HTML, for browsers without scripts.

use std::fmt::Write as _;

use crate::server::AppState;
use crate::server::live::message::state_reason;

const COLUMNS: [&str; 8] =
    ["replica", "state", "weight", "in flight", "prefill tokens", "decoding", "resident tokens", "address"];

/// Returns a table for each pool.
pub(super) fn render(app: &AppState) -> String {
    let now = app.clock.now();
    let mut html = String::new();
    for pool in &app.fleet.pools() {
        // Writing to a string cannot fail.
        let _ = write!(
            html,
            "<table class=\"plain\"><caption>{} ({})</caption><thead><tr>",
            escape(pool.name()),
            escape(&pool.spec().policy.to_string())
        );
        for column in COLUMNS {
            let _ = write!(html, "<th scope=\"col\">{column}</th>");
        }
        html += "</tr></thead><tbody>";
        for (replica, status) in pool.replicas().zip(pool.member_statuses(now)) {
            let load = replica.load();
            let reason = state_reason(status.state, replica).map(|reason| format!(": {reason}")).unwrap_or_default();
            let _ = write!(
                html,
                "<tr><th scope=\"row\">{}</th><td>{}{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(replica.name()),
                status.state.as_str(),
                escape(&reason),
                status.weight,
                replica.in_flight(),
                load.prefill,
                load.decoding_streams,
                load.resident,
                escape(&replica.origin().to_string())
            );
        }
        html += "</tbody></table>";
    }
    html
}

/// Returns text with the characters replaced that mean something in HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_is_text() {
        assert_eq!(escape("<a \"&\">"), "&lt;a &quot;&amp;&quot;&gt;");
    }
}
