//! The keys of `[tls]`.

use std::path::PathBuf;

use super::key_spec::{KeySpec, parse_file_path};
use super::settings_draft::SettingsDraft;
use crate::config::parse::value::{ReadResult, TomlValue};

pub(super) static TLS_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "certificate",
        expected: "a PEM file, or a list of them",
        default: "[]",
        doc: "PEM files, each a certificate followed by its issuers; the client's SNI name selects one, else the first.",
        set: |d, v| parse_pem_files(d, v).map(|files| d.settings.tls.chains = files),
    },
    KeySpec {
        name: "key",
        expected: "a PEM file, or a list of them, one for each `certificate`",
        default: "[]",
        doc: "PEM files of the private keys, in the order of `certificate`.",
        set: |d, v| parse_pem_files(d, v).map(|files| d.settings.tls.keys = files),
    },
];

/// Reads a list of files and notes the place of each, for errors when they are opened.
fn parse_pem_files(draft: &mut SettingsDraft, value: &TomlValue<'_>) -> ReadResult<Vec<PathBuf>> {
    value.map_list(|item| {
        let file = parse_file_path(item)?;
        draft.referenced_files.add(&file, &item.span);
        Ok(file)
    })
}
