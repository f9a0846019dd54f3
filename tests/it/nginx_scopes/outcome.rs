//! Compares the outcomes of both sides.
//!
//! Not compared: how connections are kept, whether a body of no bytes is announced, the bodies of nginx's own error pages
//! and of the router's error objects, and headers that every server writes for itself, such as `Server` and `Date`.

use std::collections::{BTreeMap, BTreeSet};

use super::case::PreparedCase;
use super::replicas::{AskedReplica, PLAY_HEADER};
use super::requests::CaseRequest;
use super::sides::{CaseOutcome, ComparisonSetup, RequestOutcome};
use crate::harness::client::HttpResponse;
use crate::harness::scripted::ReceivedRequest;

/// The part of an outcome that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DifferingPart {
    /// The client's status; 0 if the connection ended without a response.
    Status,
    /// The ports of the replicas, in order.
    Replicas,
    Method,
    Target,
    RequestBody,
    /// A header that the replica has received, in lower case.
    RequestHeader(String),
    /// A header of the response, in lower case.
    ResponseHeader(String),
    ResponseBody,
    Certificate,
    /// The lines of an access log.
    Log(String),
}

/// A difference between nginx and the router.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) part: DifferingPart,
    pub(crate) nginx: String,
    pub(crate) ours: String,
}

/// A request with both outcomes.
pub(crate) struct ComparedRequest<'a> {
    pub(crate) case: &'a PreparedCase,
    pub(crate) request: &'a CaseRequest,
    pub(crate) nginx: &'a RequestOutcome,
    pub(crate) ours: &'a RequestOutcome,
}

/// Headers of requests that are not compared.
const FREE_REQUEST_HEADERS: [&str; 3] = ["connection", "keep-alive", "x-ask"];
/// Headers of responses that are not compared.
const FREE_RESPONSE_HEADERS: [&str; 9] = [
    "connection",
    "keep-alive",
    "server",
    "date",
    "content-length",
    "transfer-encoding",
    "x-request-id",
    "etag",
    "accept-ranges",
];
/// Headers that the router adds to its own errors.
const ERROR_HEADERS: [&str; 5] = ["retry-after", "www-authenticate", "allow", "cache-control", "x-should-retry"];

impl RequestOutcome {
    pub(crate) fn status(&self) -> u16 {
        self.result.response.as_ref().map_or(0, |response| response.status)
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.asked.iter().map(|asked| asked.port).collect()
    }

    fn header_values(&self) -> BTreeMap<String, Vec<String>> {
        self.result.response.as_ref().map(|response| collect_headers(&response.head)).unwrap_or_default()
    }
}

impl ComparedRequest<'_> {
    /// Returns all differences of a request.
    pub(crate) fn differences(&self, setup: &ComparisonSetup) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |part: DifferingPart, nginx: String, ours: String| {
            if nginx != ours {
                found.push(Difference { part, nginx, ours });
            }
        };
        let (nginx, ours) = (self.nginx, self.ours);
        let certificate = |side: &RequestOutcome| {
            side.result.certificate.as_ref().map_or("none", |der| setup.certificate_name(der)).to_owned()
        };
        compare(DifferingPart::Certificate, certificate(nginx), certificate(ours));
        compare(DifferingPart::Status, nginx.status().to_string(), ours.status().to_string());
        compare(DifferingPart::Replicas, format!("{:?}", nginx.ports()), format!("{:?}", ours.ports()));
        // Other replicas have other addresses and answers, another status has another head.
        if nginx.ports() != ours.ports() {
            return found;
        }
        for (nginx, ours) in nginx.asked.iter().zip(&ours.asked) {
            compare_asked(self.case, nginx, ours, &mut compare);
        }
        if nginx.status() == ours.status() {
            self.compare_responses(&mut compare);
        }
        found
    }

    fn compare_responses(&self, compare: &mut impl FnMut(DifferingPart, String, String)) {
        let (nginx, ours) = (self.nginx.header_values(), self.ours.header_values());
        let is_own_error = self.ours.status() >= 400 && (self.ours.asked.is_empty() || self.has_error_page());
        let is_free = |name: &str| {
            let added = is_own_error && !nginx.contains_key(name) && ERROR_HEADERS.contains(&name);
            // nginx's error pages are HTML.
            // The time depends on when the request was sent.
            let is_time = name == "expires" && nginx.contains_key(name) && ours.contains_key(name);
            added || is_time || FREE_RESPONSE_HEADERS.contains(&name) || name == "content-type" && self.has_error_page()
        };
        let names: BTreeSet<&String> = nginx.keys().chain(ours.keys()).collect();
        for name in names.into_iter().filter(|name| !is_free(name)) {
            let part = DifferingPart::ResponseHeader(name.clone());
            compare(part, format!("{:?}", nginx.get(name)), format!("{:?}", ours.get(name)));
        }
        if !self.has_error_page() && !self.request.is_head {
            let text = |side: &RequestOutcome| {
                let body = side.result.response.as_ref().map(|response| response.body.as_slice()).unwrap_or_default();
                format!("{} bytes: {}", body.len(), String::from_utf8_lossy(&body[..body.len().min(200)]))
            };
            // Compressed bytes depend on the compressor.
            if !nginx.contains_key("content-encoding") {
                compare(DifferingPart::ResponseBody, text(self.nginx), text(self.ours));
            }
        }
    }

    /// Returns whether nginx answers with a page of its own.
    fn has_error_page(&self) -> bool {
        let is_page = |response: &HttpResponse| String::from_utf8_lossy(&response.body).contains("<hr><center>nginx");
        let response = self.nginx.result.response.as_ref();
        self.nginx.asked.is_empty() && response.is_some_and(is_page)
            || self.request.is_head && self.nginx.asked.is_empty() && self.nginx.status() >= 300
            // A replica was asked and did not answer.
            || self.nginx.status() >= 500 && response.is_some_and(is_page)
    }
}

fn compare_asked(
    case: &PreparedCase,
    nginx: &AskedReplica,
    ours: &AskedReplica,
    compare: &mut impl FnMut(DifferingPart, String, String),
) {
    let (nginx, ours) = (&nginx.request, &ours.request);
    compare(DifferingPart::Method, nginx.method().to_owned(), ours.method().to_owned());
    compare(DifferingPart::Target, nginx.target().to_owned(), ours.target().to_owned());
    let length = |request: &ReceivedRequest| format!("{} bytes", request.body.len());
    if nginx.body != ours.body {
        compare(DifferingPart::RequestBody, length(nginx), format!("{}, or others", length(ours)));
    }
    let (nginx, ours) = (collect_headers(&nginx.head), collect_headers(&ours.head));
    let names: BTreeSet<&String> = nginx.keys().chain(ours.keys()).collect();
    for name in names.into_iter().filter(|name| !FREE_REQUEST_HEADERS.contains(&name.as_str())) {
        let (nginx, ours) = (nginx.get(name), ours.get(name));
        // A body of no bytes may be announced or not.
        let is_empty = |values: Option<&Vec<String>>| values.is_none_or(|values| values == &["0"]);
        if name == "content-length" && is_empty(nginx) && is_empty(ours) {
            continue;
        }
        if nginx != ours && name != &PLAY_HEADER.to_ascii_lowercase() {
            let text = |values: Option<&Vec<String>>| case.restore_ports(&format!("{values:?}"));
            compare(DifferingPart::RequestHeader(name.clone()), text(nginx), text(ours));
        }
    }
}

/// Returns the differences of the access logs, in which lines may have another order.
pub(crate) fn compare_logs(nginx: &CaseOutcome, ours: &CaseOutcome) -> Vec<Difference> {
    let files: BTreeSet<&String> = nginx.log_lines.keys().chain(ours.log_lines.keys()).collect();
    let mut found = Vec::new();
    for file in files {
        let lines = |side: &CaseOutcome| {
            let lines = side.log_lines.get(file).into_iter().flatten().map(|line| mask_line(line));
            // Malformed requests are logged where the router does not know their host yet.
            let mut lines: Vec<String> = lines.filter(|line| !line.split(' ').any(|word| word == "400")).collect();
            lines.sort();
            lines
        };
        let (nginx, ours) = (lines(nginx), lines(ours));
        if nginx != ours {
            let summary = |these: &[String], others: &[String]| {
                let missing = these.iter().find(|line| count(these, line) > count(others, line));
                format!("{} lines, the other has not: {}", these.len(), missing.map_or("-", String::as_str))
            };
            let part = DifferingPart::Log(file.clone());
            found.push(Difference { part, nginx: summary(&nginx, &ours), ours: summary(&ours, &nginx) });
        }
    }
    found
}

fn count(lines: &[String], wanted: &str) -> usize {
    lines.iter().filter(|line| *line == wanted).count()
}

/// Returns the request and the status of a line in the format `combined`, other lines as they are.
fn mask_line(line: &str) -> String {
    match (line.contains(" ["), line.split('"').collect::<Vec<_>>().as_slice()) {
        (true, [address, request, rest, ..]) => {
            let client = address.split(' ').next().unwrap_or_default();
            format!("{client} {request} {}", rest.trim().split(' ').next().unwrap_or_default())
        }
        _ => line.to_owned(),
    }
}

/// Returns header values by name, values in order.
fn collect_headers(head: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        all.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    all
}
