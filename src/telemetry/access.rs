//! The access log: one line per request.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::time::rfc3339;
use super::writer::Writer;
use crate::config::Format;
use crate::units::Usage;

/// What is known of a request when it is over.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The request's id, sent to the replica and to the client as `X-Request-Id`.
    pub id: &'a str,
    /// The client's address.
    pub client: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path as it came, without its query.
    pub path: &'a str,
    /// The status the client got; 0 if it left before there was one.
    pub status: u16,
    /// The replica that answered, or was tried last.
    pub upstream: Option<&'a str>,
    /// The model asked for.
    pub model: Option<&'a str>,
    /// The token counts the replica reported.
    pub usage: Option<Usage>,
    /// From the request's arrival to the first generated content.
    pub ttft: Option<Duration>,
    /// From the request's arrival to the end of the answer.
    pub duration: Duration,
    /// How it ended.
    pub outcome: &'a str,
}

/// Writes access lines in the configured format.
pub struct AccessLog {
    writer: Writer,
    format: Format,
}

#[derive(Serialize)]
struct Json<'a> {
    time: String,
    id: &'a str,
    client: &'a str,
    method: &'a str,
    path: &'a str,
    status: u16,
    upstream: Option<&'a str>,
    model: Option<&'a str>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    ttft: Option<f64>,
    duration: f64,
    outcome: &'a str,
}

impl AccessLog {
    /// A log in `format` to `writer`.
    pub const fn new(writer: Writer, format: Format) -> Self {
        Self { writer, format }
    }

    /// Writes one line, stamped with a time of day.
    pub fn write(&self, line: &Line<'_>, time_of_day: Duration) {
        let time = rfc3339(time_of_day);
        let text = match self.format {
            Format::Text => text(line, &time),
            Format::Json => json(line, time),
        };
        self.writer.write(text.as_bytes());
    }

    /// Lines dropped so far.
    pub fn lost(&self) -> u64 {
        self.writer.lost()
    }
}

fn text(line: &Line<'_>, time: &str) -> String {
    let mut out = String::with_capacity(256);
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), escaped);
    let count = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{time} {} \"{} {}\" {} {} model={} prompt={} completion={} ttft={} time={:.3} {} id={}",
        escaped(line.client),
        escaped(line.method),
        escaped(line.path),
        line.status,
        or_dash(line.upstream),
        or_dash(line.model),
        count(line.usage.map(|u| u.prompt.0)),
        count(line.usage.map(|u| u.completion.0)),
        line.ttft.map_or_else(|| "-".to_owned(), |t| format!("{:.3}", t.as_secs_f64())),
        line.duration.as_secs_f64(),
        line.outcome,
        escaped(line.id),
    );
    out
}

fn json(line: &Line<'_>, time: String) -> String {
    let record = Json {
        time,
        id: line.id,
        client: line.client,
        method: line.method,
        path: line.path,
        status: line.status,
        upstream: line.upstream,
        model: line.model,
        prompt_tokens: line.usage.map(|u| u.prompt.0),
        completion_tokens: line.usage.map(|u| u.completion.0),
        ttft: line.ttft.map(|t| t.as_secs_f64()),
        duration: line.duration.as_secs_f64(),
        outcome: line.outcome,
    };
    let mut out = serde_json::to_string(&record).unwrap_or_default();
    out.push('\n');
    out
}

/// Keeps a client from forging lines or fields: quotes, backslashes, spaces and control characters become `\xHH`.
fn escaped(text: &str) -> String {
    let plain = |c: char| !(c.is_control() || c.is_whitespace() || c == '"' || c == '\\');
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if plain(c) {
            out.push(c);
        } else {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                let _ = write!(out, "\\x{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Tokens;

    fn line() -> Line<'static> {
        Line {
            id: "r1",
            client: "10.1.2.3",
            method: "POST",
            path: "/v1/chat/completions",
            status: 200,
            upstream: Some("10.0.0.1:8000"),
            model: Some("m\n\"x"),
            usage: Some(Usage { prompt: Tokens(12), cached: None, completion: Tokens(8) }),
            ttft: Some(Duration::from_millis(25)),
            duration: Duration::from_millis(310),
            outcome: "completed",
        }
    }

    #[test]
    fn a_text_line_has_every_field_and_no_forged_one() {
        let expected = "T 10.1.2.3 \"POST /v1/chat/completions\" 200 10.0.0.1:8000 model=m\\x0A\\x22x prompt=12 \
                        completion=8 ttft=0.025 time=0.310 completed id=r1\n";
        assert_eq!(text(&line(), "T"), expected);
    }

    #[test]
    fn a_json_line_is_one_line_of_json() {
        let out = json(&line(), "T".to_owned());
        assert_eq!(out.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&value["model"], &value["prompt_tokens"]), (&"m\n\"x".into(), &12.into()));
    }
}
