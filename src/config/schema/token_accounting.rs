//! The keys that say how a pool's tokens are counted.

use std::time::Duration;

use super::top::parse_file_path;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::fleet::TokenAccounting;
use crate::prompt::Tokenizer;
use crate::units::Tokens;

/// Engines are asked for their metrics no more often than this.
const MIN_METRICS_INTERVAL: Duration = Duration::from_millis(100);

/// How a pool's tokens are counted, as far as it was written.
#[derive(Default)]
pub(in crate::config) struct AccountingDraft {
    pub(in crate::config) accounting: TokenAccounting,
    /// `None` if not given; `None` inside for never.
    pub(in crate::config) engine_metrics_interval: Option<Option<Duration>>,
}

impl AccountingDraft {
    /// What it comes to; `usual` is how often engines are asked if nothing was said.
    pub(in crate::config) fn into_accounting(self, usual: Option<Duration>) -> TokenAccounting {
        TokenAccounting { engine_metrics_interval: self.engine_metrics_interval.unwrap_or(usual), ..self.accounting }
    }
}

/// `tokens`: what prompts are counted by.
pub(in crate::config) fn parse_tokenizer(value: &TomlValue<'_>) -> ReadResult<Option<Tokenizer>> {
    let text = value.string()?;
    match Tokenizer::from_name(&text) {
        _ if text == "estimate" => Ok(None),
        Some(vocabulary) => Ok(Some(vocabulary)),
        None if text.ends_with(".json") => {
            let path = parse_file_path(value)?;
            let read = Tokenizer::from_file(&path.to_string_lossy());
            read.map(Some).map_err(|why| value.diagnostic(format!("`{text}` cannot be counted by: {why}")).into())
        }
        None => Err(value.invalid()),
    }
}

/// A number of tokens.
pub(in crate::config) fn parse_token_count(value: &TomlValue<'_>) -> ReadResult<Tokens> {
    value.integer(0).map(|tokens| Tokens(tokens as u64))
}

/// `engine_metrics`: how often, or never.
pub(in crate::config) fn parse_metrics_interval(value: &TomlValue<'_>) -> ReadResult<Option<Duration>> {
    if value.raw.as_str() == Some("off") {
        return Ok(None);
    }
    // A slip such as 5 for "5s" is a time; one such as "5us" must not make an engine spend its time telling of it.
    value.duration().ok().filter(|every| *every >= MIN_METRICS_INTERVAL).map(Some).ok_or_else(|| value.invalid())
}
