//! The tables of keys outside pools, a file per table of `router.toml`.

pub(super) mod client_key;
pub(super) mod cors;
pub(super) mod headers;
pub(super) mod key_spec;
mod limits;
mod log;
pub(super) mod log_words;
mod record;
pub(super) mod scope;
pub(super) mod secret;
pub(super) mod settings_draft;
mod timeouts;
mod tls;
pub(super) mod top;

use settings_draft::TableSchema;

/// Every table of the file but `[[pool]]`, `[[host]]` and `[[key]]`; the top of the file comes first and has no name.
pub(super) static TABLES: &[TableSchema] = &[
    TableSchema { name: "", keys: top::TOP_SCHEMA },
    TableSchema { name: "", keys: &scope::rows::TOP_CLIENT_SCHEMA },
    TableSchema { name: "", keys: &scope::rows::TOP_MESSAGE_SCHEMA },
    TableSchema { name: "tls", keys: tls::TLS_SCHEMA },
    TableSchema { name: "limits", keys: limits::LIMITS_SCHEMA },
    TableSchema { name: "timeouts", keys: timeouts::TIMEOUTS_SCHEMA },
    TableSchema { name: "log", keys: log::LOG_SCHEMA },
    TableSchema { name: "record", keys: record::RECORD_SCHEMA },
    TableSchema { name: "cors", keys: cors::CORS_SCHEMA },
];
