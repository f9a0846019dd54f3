//! JSON text.

/// Returns `text` as a JSON string with its quotes.
pub(super) fn quote_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
