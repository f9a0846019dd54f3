//! The keys that say how a pool's tokens are counted.

use std::time::Duration;

use super::keys::file;
use super::value::{Read, Value};
use crate::fleet::Metering;
use crate::prompt::Vocabulary;
use crate::units::Tokens;

/// Engines are asked for their metrics no more often than this.
const LEAST_EVERY: Duration = Duration::from_millis(100);

/// How a pool's tokens are counted, as far as it was written.
#[derive(Default)]
pub(super) struct DraftMetering {
    pub(super) metering: Metering,
    /// `None` if not given; `None` inside for never.
    pub(super) engine_metrics: Option<Option<Duration>>,
}

impl DraftMetering {
    /// What it comes to; `usual` is how often engines are asked if nothing was said.
    pub(super) fn finish(self, usual: Option<Duration>) -> Metering {
        Metering { engine_metrics: self.engine_metrics.unwrap_or(usual), ..self.metering }
    }
}

/// `tokens`: what prompts are counted by.
pub(super) fn tokens(value: &Value<'_>) -> Read<Option<Vocabulary>> {
    let text = value.text()?;
    match Vocabulary::named(&text) {
        _ if text == "estimate" => Ok(None),
        Some(vocabulary) => Ok(Some(vocabulary)),
        None if text.ends_with(".json") => {
            let path = file(value)?;
            let read = Vocabulary::file(&path.to_string_lossy());
            read.map(Some).map_err(|why| value.issue(format!("`{text}` cannot be counted by: {why}")).into())
        }
        None => Err(value.wrong()),
    }
}

/// A number of tokens.
pub(super) fn length(value: &Value<'_>) -> Read<Tokens> {
    value.count(0).map(|tokens| Tokens(tokens as u64))
}

/// `engine_metrics`: how often, or never.
pub(super) fn engine_metrics(value: &Value<'_>) -> Read<Option<Duration>> {
    if value.given.as_str() == Some("off") {
        return Ok(None);
    }
    // A slip such as 5 for "5s" is a time; one such as "5us" must not make an engine spend its time telling of it.
    value.time().ok().filter(|every| *every >= LEAST_EVERY).map(Some).ok_or_else(|| value.wrong())
}
