//! The answers that a route gives itself, as nginx's `return`.

use http::HeaderValue;
use thiserror::Error;

use crate::log_format::{LogFormat, LogFormatError, ValueAvailability};

/// The status with which nginx closes a connection without an answer.
const CLOSE_STATUS: u16 = 444;
/// The status of a redirect that names none.
const DEFAULT_REDIRECT: u16 = 302;

/// What a route answers without a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the connection is closed.
    Close,
    /// A status with an error of the API, or without a body below 400.
    Status(u16),
    /// A status and a text.
    Text {
        /// 200 to 599.
        status: u16,
        /// The body; its variables are those known at the request.
        text: LogFormat,
        /// `Content-Type`.
        content_type: HeaderValue,
    },
    /// A redirect.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// `Location`; a path is completed by scheme, host and port, as in nginx.
        location: LogFormat,
    },
}

/// Why a text is not an answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AnswerError {
    /// Neither a status nor a URL.
    #[error("an answer is a status such as 403, a status and a text or a URL, or a URL alone")]
    MissingStatus,
    /// A status that is no answer's.
    #[error("the status of an answer is 200 to 599")]
    StatusOutOfRange,
    /// A redirect without URL.
    #[error("a redirect needs the URL behind its status")]
    MissingUrl,
    /// An unknown variable in text or URL.
    #[error(transparent)]
    Format(#[from] LogFormatError),
}

impl Answer {
    /// Parses the words of nginx's `return`: `403`, `200 text`, `301 https://$host$request_uri`, a URL alone, `444`.
    ///
    /// *Errors*: no status, one out of range, or an unknown variable.
    pub fn parse(words: &str) -> Result<Self, AnswerError> {
        let words = words.trim();
        let (status, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        if ["http://", "https://", "$scheme"].iter().any(|scheme| words.starts_with(scheme)) {
            return Self::redirect(DEFAULT_REDIRECT, words);
        }
        let is_status = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
        let status = status.parse().ok().filter(|_| is_status).ok_or(AnswerError::MissingStatus)?;
        let rest = rest.trim_start();
        if is_redirect(status) { Self::redirect(status, rest) } else { Self::text(status, rest, None) }
    }

    /// Returns the answer of a status and a text; `text/plain` without a type.
    ///
    /// *Errors*: the status is out of range, or the text has an unknown variable.
    pub fn text(status: u16, text: &str, content_type: Option<HeaderValue>) -> Result<Self, AnswerError> {
        if status == CLOSE_STATUS {
            return Ok(Self::Close);
        }
        if !(200..600).contains(&status) {
            return Err(AnswerError::StatusOutOfRange);
        }
        if text.is_empty() && content_type.is_none() {
            return Ok(Self::Status(status));
        }
        let text = LogFormat::for_header(text, ValueAvailability::AtRequest)?;
        let content_type = content_type.unwrap_or(HeaderValue::from_static("text/plain"));
        Ok(Self::Text { status, text, content_type })
    }

    fn redirect(status: u16, location: &str) -> Result<Self, AnswerError> {
        if location.is_empty() {
            return Err(AnswerError::MissingUrl);
        }
        let location = LogFormat::for_header(location, ValueAvailability::AtRequest)?;
        Ok(Self::Redirect { status, location })
    }

    /// Returns the status; nginx's 444 for a closed connection.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Close => CLOSE_STATUS,
            Self::Status(status) | Self::Text { status, .. } | Self::Redirect { status, .. } => *status,
        }
    }

    /// Returns the format of its text or location, if it has one.
    pub(super) const fn format(&self) -> Option<&LogFormat> {
        match self {
            Self::Close | Self::Status(_) => None,
            Self::Text { text, .. } => Some(text),
            Self::Redirect { location, .. } => Some(location),
        }
    }
}

const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_return_are_parsed() {
        let parsed = |words: &str| match Answer::parse(words).unwrap() {
            Answer::Close => "close".to_owned(),
            Answer::Status(status) => format!("{status}"),
            Answer::Text { status, text, .. } => format!("{status} text {}", text.source()),
            Answer::Redirect { status, location } => format!("{status} to {}", location.source()),
        };
        for (words, wanted) in [
            ("403", "403"),
            ("204", "204"),
            ("444", "close"),
            ("200 all is  well", "200 text all is  well"),
            ("404 \"none\"", "404 text \"none\""),
            ("301 https://$host$request_uri", "301 to https://$host$request_uri"),
            ("308 /other", "308 to /other"),
            ("https://a/", "302 to https://a/"),
            ("$scheme://a/", "302 to $scheme://a/"),
        ] {
            assert_eq!(parsed(words), wanted, "{words}");
        }
    }

    #[test]
    fn bad_words_are_refused() {
        for (words, wanted) in [
            ("", AnswerError::MissingStatus),
            ("forbidden", AnswerError::MissingStatus),
            ("20", AnswerError::MissingStatus),
            ("100", AnswerError::StatusOutOfRange),
            ("600 x", AnswerError::StatusOutOfRange),
            ("301", AnswerError::MissingUrl),
        ] {
            assert_eq!(Answer::parse(words).unwrap_err(), wanted, "{words}");
        }
        assert!(matches!(Answer::parse("200 $nothing"), Err(AnswerError::Format(_))));
    }
}
