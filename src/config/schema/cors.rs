//! The keys of `[cors]`.

use super::key_spec::KeySpec;
use super::settings_draft::SettingsDraft;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::settings::CorsSettings;

pub(super) static CORS_SCHEMA: &[KeySpec<SettingsDraft>] = &[KeySpec {
    name: "origins",
    expected: "origins such as \"https://chat.example.com\", or \"*\"",
    default: "[]",
    doc: "The origins of web pages that may call, or `*` for all; empty for none.",
    set: |d, v| {
        v.map_list(parse_cors_origin)
            .map(|origins| d.settings.cors = (!origins.is_empty()).then_some(CorsSettings { origins }))
    },
}];

fn parse_cors_origin(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    if is_cors_origin(&text) { Ok(text.to_ascii_lowercase()) } else { Err(value.invalid()) }
}

/// Returns whether a text has the form of browsers' `Origin`, scheme, host and port only; or is `*` for all.
pub(crate) fn is_cors_origin(text: &str) -> bool {
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let is_plain = !host.is_empty() && !host.contains('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
    is_plain || text == "*"
}
