//! Token accounting of pools.

use std::time::Duration;

use super::draft::AccountingDraft;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::key_spec::parse_file_path;
use crate::fleet::{PathPolicy, TokenAccounting};
use crate::prompt::Tokenizer;
use crate::units::Tokens;

const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_secs(5);
const MIN_METRICS_INTERVAL: Duration = Duration::from_millis(100);

impl AccountingDraft {
    /// Returns the accounting of a pool with these paths. With any path, a replica may be no engine, so by default its
    /// metrics are not read.
    pub(super) fn into_accounting(self, paths: &PathPolicy) -> TokenAccounting {
        let default = (*paths != PathPolicy::Any).then_some(DEFAULT_METRICS_INTERVAL);
        TokenAccounting { engine_metrics_interval: self.engine_metrics_interval.unwrap_or(default), ..self.accounting }
    }
}

/// Reads `tokens`: the tokenizer that counts prompts; `None` for an estimate.
pub(super) fn parse_tokenizer(value: &TomlValue<'_>) -> ReadResult<Option<Tokenizer>> {
    let text = value.string()?;
    match Tokenizer::from_name(&text) {
        _ if text == "estimate" => Ok(None),
        Some(tokenizer) => Ok(Some(tokenizer)),
        None if text.ends_with(".json") => {
            let path = parse_file_path(value)?;
            let tokenizer = Tokenizer::from_file(&path.to_string_lossy());
            let error = |error| value.diagnostic(format!("cannot load tokenizer `{text}`: {error}")).into();
            tokenizer.map(Some).map_err(error)
        }
        None => Err(value.invalid()),
    }
}

/// Reads a number of tokens.
pub(super) fn parse_token_count(value: &TomlValue<'_>) -> ReadResult<Tokens> {
    value.integer(0).map(|tokens| Tokens(tokens as u64))
}

/// Reads `engine_metrics`: the interval; `None` for never. Too short a one, such as `5us`, would overload the engine.
pub(super) fn parse_metrics_interval(value: &TomlValue<'_>) -> ReadResult<Option<Duration>> {
    if value.raw.as_str() == Some("off") {
        return Ok(None);
    }
    let interval = value.duration().ok().filter(|interval| *interval >= MIN_METRICS_INTERVAL);
    interval.map(Some).ok_or_else(|| value.invalid())
}
