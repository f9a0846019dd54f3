//! The keys of `[record]`.

use std::path::PathBuf;

use super::key_spec::{EXPECTED_SIZE, KeySpec, parse_file_path};
use super::settings_draft::SettingsDraft;
use crate::config::parse::value::{ReadResult, TomlValue};

pub(super) static RECORD_SCHEMA: &[KeySpec<SettingsDraft>] = &[
    KeySpec {
        name: "path",
        expected: "\"off\" or a path",
        default: "\"off\"",
        doc: "The file to which traffic is recorded as a trace for `tokenweir replay`, without any text of prompts.",
        set: |d, v| parse_trace_path(v).map(|path| d.settings.record.path = path),
    },
    KeySpec {
        name: "max_bytes",
        expected: EXPECTED_SIZE,
        default: "\"100MiB\"",
        doc: "The size from which a new file is started; the older ones get the endings `.1`, `.2` and so on.",
        set: |d, v| v.byte_size(1).map(|bytes| d.settings.record.max_bytes = bytes as u64),
    },
    KeySpec {
        name: "max_files",
        expected: "a whole number",
        default: "3",
        doc: "The number of older files kept.",
        set: |d, v| v.integer(0).map(|count| d.settings.record.max_files = count),
    },
];

fn parse_trace_path(value: &TomlValue<'_>) -> ReadResult<Option<PathBuf>> {
    if value.raw.as_str() == Some("off") { Ok(None) } else { parse_file_path(value).map(Some) }
}
