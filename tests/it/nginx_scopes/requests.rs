//! The requests of a case: those in its comments, and those that its words suggest.
//!
//! Comments of a case:
//!
//! - `# ask: GET /x?y host=a.example body=1025 play=slow=1500 X-Real-IP=1.2.3.4 Authorization="Bearer k"`: one request.
//!   Keys: `host`, `at` (a part of the listener's words; else every listener), `from` (the client's address), `sni`,
//!   `body` (bytes), `cut` (the body stops after so many bytes), `play` (the replica's words), `http` (1.0), `plain`
//!   (no TLS); a name with a capital letter is a header.
//! - `# raw: GET / HTTP/1.1\r\nHost: a b\r\n\r\n`: one request as it is, to every listener.
//! - `# hosts: a b`, `# paths: /a /b`: more values for the suggested requests.
//! - `# only asked: REASON`: no suggested requests; `# suggested: N`: about so many of them.

use std::net::IpAddr;

use rustls::pki_types::DnsName;

use super::case::{CaseListener, PreparedCase};
use super::replicas::{NUMBER_HEADER, PLAY_HEADER};
use super::suggestions::suggest_requests;

/// A request of a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct CaseRequest {
    /// The index of the listener.
    pub(crate) listener: usize,
    pub(crate) from: Option<IpAddr>,
    pub(crate) sni: Option<String>,
    /// Whether it is sent without TLS to a TLS listener.
    pub(crate) is_plain: bool,
    pub(crate) is_head: bool,
    /// One line for the report.
    pub(crate) line: String,
    bytes: Vec<u8>,
}

/// What a request says, before it is bytes.
#[derive(Clone, Debug)]
pub(crate) struct RequestWords {
    pub(crate) method: String,
    pub(crate) target: String,
    /// `None`: no Host header.
    pub(crate) host: Option<String>,
    pub(crate) version: &'static str,
    /// Names and values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body_bytes: Option<usize>,
    /// The number of body bytes that are sent, if not all.
    pub(crate) cut_bytes: Option<usize>,
    pub(crate) from: Option<IpAddr>,
    pub(crate) sni: Option<String>,
    pub(crate) is_plain: bool,
    /// Where it is sent: a part of the listener's words.
    pub(crate) at: Option<String>,
}

impl RequestWords {
    pub(crate) fn new(method: &str, target: &str, host: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: Some(host.to_owned()),
            version: "1.1",
            headers: Vec::new(),
            body_bytes: (method == "POST").then_some(2),
            cut_bytes: None,
            from: None,
            sni: None,
            is_plain: false,
            at: None,
        }
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Parses the text of an `# ask:` comment.
    fn parse(text: &str) -> Self {
        let words = split_words(text);
        let mut request = Self::new(&words[0], &words[1], "a.example");
        for word in &words[2..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "host" if value == "none" => request.host = None,
                "host" => request.host = Some(value.to_owned()),
                "at" => request.at = Some(value.to_owned()),
                "from" => request.from = Some(value.parse().unwrap()),
                "sni" => request.sni = Some(value.to_owned()),
                "body" => request.body_bytes = Some(value.parse().unwrap()),
                "cut" => request.cut_bytes = Some(value.parse().unwrap()),
                "play" => request = request.with_header(PLAY_HEADER, value),
                "http" => request.version = "1.0",
                "plain" => request.is_plain = true,
                name if name.contains(|c: char| c.is_ascii_uppercase()) => request = request.with_header(name, value),
                other => panic!("a request has no word {other}: {text}"),
            }
        }
        request
    }

    /// Returns the request for one listener.
    pub(crate) fn build(&self, index: usize, listener: &CaseListener) -> CaseRequest {
        let mut head = format!("{} {} HTTP/{}\r\n", self.method, self.target, self.version);
        if let Some(host) = &self.host {
            head += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "Connection: close\r\n";
        let mut body = String::new();
        if let Some(bytes) = self.body_bytes {
            head += &format!("Content-Type: application/json\r\nContent-Length: {bytes}\r\n");
            body = "x".repeat(self.cut_bytes.unwrap_or(bytes));
        }
        let shown: Vec<String> =
            head.lines().skip(1).filter(|line| !line.starts_with("Connection")).map(String::from).collect();
        let name = self.host.as_deref().unwrap_or_default().split(':').next().unwrap_or_default();
        let sni = self.sni.clone().unwrap_or_else(|| name.trim_end_matches('.').to_owned());
        let sni = Some(sni).filter(|sni| sni != "none" && DnsName::try_from(sni.as_str()).is_ok());
        let mut line = format!("{} {}", self.method, self.target);
        for (key, value) in [("from", self.from.map(|ip| ip.to_string())), ("sni", self.sni.clone())] {
            line += &value.map(|value| format!(" {key}={value}")).unwrap_or_default();
        }
        if self.version == "1.0" {
            line += " HTTP/1.0";
        }
        CaseRequest {
            listener: index,
            from: self.from,
            sni,
            is_plain: self.is_plain,
            is_head: self.method == "HEAD",
            line: format!("{line} at {} ({})", listener.words, shown.join(", ")),
            bytes: format!("{head}\r\n{body}").into_bytes(),
        }
    }
}

impl CaseRequest {
    /// Returns the bytes of a `# raw:` comment for one listener.
    fn from_raw(text: &str, index: usize, listener: &CaseListener) -> Self {
        let bytes = unescape(text);
        Self {
            listener: index,
            is_head: bytes.starts_with(b"HEAD"),
            line: format!("{text} at {}", listener.words),
            bytes,
            ..Self::default()
        }
    }

    /// Returns all values of a header in lower case, if there is one.
    pub(crate) fn header_values(&self, name: &str) -> Option<Vec<String>> {
        let head: String = self.bytes.iter().copied().map(char::from).collect();
        let lines = head.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned());
        Some(named.collect::<Vec<_>>()).filter(|values| !values.is_empty())
    }

    /// Returns the request with its number in a header.
    pub(crate) fn numbered_bytes(&self, number: usize) -> Vec<u8> {
        let line_end = self.bytes.windows(2).position(|pair| pair == b"\r\n").map_or(self.bytes.len(), |at| at + 2);
        let header = format!("{NUMBER_HEADER}: {number}\r\n");
        [&self.bytes[..line_end], header.as_bytes(), &self.bytes[line_end..]].concat()
    }
}

/// Returns all requests of a case.
pub(crate) fn build_requests(case: &PreparedCase) -> Vec<CaseRequest> {
    let mut requests = Vec::new();
    let mut add = |words: &RequestWords| requests.extend(build_for_listeners(case, words));
    if case.comment_values("only asked").is_empty() {
        suggest_requests(case).iter().for_each(&mut add);
    }
    let limit = case.comment_values("suggested").first().map(|limit| limit.parse::<usize>().unwrap());
    // A part of every kind.
    let step = limit.map_or(1, |limit| requests.len().div_ceil(limit).max(1));
    let mut requests: Vec<CaseRequest> = requests.into_iter().step_by(step).collect();
    let mut add = |words: &RequestWords| requests.extend(build_for_listeners(case, words));
    case.comment_values("ask").into_iter().map(RequestWords::parse).for_each(|words| add(&words));
    for text in case.comment_values("raw") {
        let listeners = case.listeners.iter().enumerate();
        requests.extend(listeners.map(|(index, listener)| CaseRequest::from_raw(text, index, listener)));
    }
    requests
}

fn build_for_listeners(case: &PreparedCase, words: &RequestWords) -> Vec<CaseRequest> {
    let listeners = case.listeners.iter().enumerate();
    let wanted = listeners.filter(|(_, listener)| words.at.as_ref().is_none_or(|at| listener.words.contains(at)));
    let built: Vec<CaseRequest> = wanted.map(|(index, listener)| words.build(index, listener)).collect();
    assert!(!built.is_empty(), "{}: no listener for {words:?}", case.name);
    built
}

/// Splits at spaces outside of double quotes, and drops the quotes.
fn split_words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Replaces `\r`, `\n`, `\t`, `\xHH` and `\\`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'x') => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            Some(other) => other,
            None => b'\\',
        });
    }
    out
}
