//! The differences that are meant. Any other fails the comparison.

use std::net::SocketAddr;
use std::path::Path;

use super::outcome::{ComparedRequest, DifferingPart};

/// A difference that is meant.
pub(crate) struct ListedDifference {
    /// A case allows it by this name: `# differs: NAME`.
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Whether every case may show it.
    pub(crate) is_general: bool,
    /// A part of the text by which the import names it.
    pub(crate) remark: &'static str,
    /// Returns whether it explains the difference: its part, nginx's value and ours.
    explains: fn(&ComparedRequest<'_>, &DifferingPart, &str, &str) -> bool,
}

/// Headers that replicas always get.
const ALWAYS_SENT: [&str; 5] =
    ["x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];

/// The difference of logs, which belong to no request.
pub(crate) const LOG_CONDITION: &str = "log-condition";
const LOG_CONDITION_REMARK: &str = "every request is logged";
/// The remark on a condition that asks for a key.
const KEY_REMARK: &str = "it becomes the API key";

/// All differences that are meant.
pub(crate) const LISTED_DIFFERENCES: [ListedDifference; 23] = [
    ListedDifference {
        name: "sent-addresses",
        reason: "X-Real-IP, X-Forwarded-* and X-Request-Id are sent where nginx is not configured to",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, _| match part {
            DifferingPart::RequestHeader(name) => {
                // nginx passes on what the client has sent.
                ALWAYS_SENT.contains(&name.as_str()) && nginx == format!("{:?}", compared.request.header_values(name))
            }
            _ => false,
        },
    },
    ListedDifference {
        name: "replica-host",
        reason: "without `proxy_set_header Host` the header names the replica's address, not the upstream",
        is_general: true,
        remark: "",
        explains: |_, part, nginx, ours| {
            let value = |text: &str| text.trim_start_matches("Some([\"").trim_end_matches("\"])").to_owned();
            let (nginx, ours) = (value(nginx), value(ours));
            let names_upstream = !nginx.contains('.') || nginx.starts_with("127.");
            *part == DifferingPart::RequestHeader("host".to_owned())
                && names_upstream
                && (ours.parse::<SocketAddr>().is_ok() || ours == "localhost")
        },
    },
    ListedDifference {
        name: "no-replica",
        reason: "no connection to any replica: 503 with Retry-After, where nginx says 502",
        is_general: false,
        remark: "",
        explains: |_, part, nginx, ours| *part == DifferingPart::Status && (nginx, ours) == ("502", "503"),
    },
    ListedDifference {
        name: "next-always",
        reason: "proxy_next_upstream off cannot be carried: a failed connection leads to the next replica",
        is_general: false,
        remark: "proxy_next_upstream off",
        explains: |compared, part, _, _| {
            let failed = compared.nginx.status() == 502 && compared.nginx.asked.is_empty();
            failed && matches!(part, DifferingPart::Status | DifferingPart::Replicas)
        },
    },
    ListedDifference {
        name: "unasked-101",
        reason: "101 without a request to upgrade is a fault of the replica: 502, as in later versions of nginx",
        is_general: true,
        remark: "",
        explains: |_, part, nginx, ours| *part == DifferingPart::Status && (nginx, ours) == ("101", "502"),
    },
    ListedDifference {
        name: "vary",
        reason: "an answer that may be compressed names Accept-Encoding in Vary; nginx does with gzip_vary",
        is_general: true,
        remark: "",
        explains: |_, part, nginx, ours| {
            *part == DifferingPart::ResponseHeader("vary".to_owned())
                && (nginx, ours) == ("None", "Some([\"accept-encoding\"])")
        },
    },
    ListedDifference {
        name: "stream-headers",
        reason: "a stream has Cache-Control: no-cache and X-Accel-Buffering: no, so that no proxy holds it",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, _| match part {
            DifferingPart::ResponseHeader(name) => {
                let is_stream = compared.request.line.contains("text/event-stream");
                is_stream && nginx == "None" && ["cache-control", "x-accel-buffering"].contains(&name.as_str())
            }
            _ => false,
        },
    },
    ListedDifference {
        name: "malformed-requests",
        reason: "the 400 to a malformed request has the headers at the top only: no host is known yet",
        is_general: true,
        remark: "",
        explains: |compared, part, _, _| {
            let is_refused = compared.nginx.status() == 400 && compared.ours.status() == 400;
            is_refused && compared.ours.asked.is_empty() && matches!(part, DifferingPart::ResponseHeader(_))
        },
    },
    ListedDifference {
        name: "answered-408",
        reason: "a client whose body stalls gets 408, where nginx closes the connection",
        is_general: false,
        remark: "",
        explains: |_, part, nginx, ours| *part == DifferingPart::Status && (nginx, ours) == ("0", "408"),
    },
    ListedDifference {
        name: "no-content",
        reason: "a path that leads nowhere is 404 for every method and address, where nginx has 405 and 403 for some",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, ours| {
            let is_refused = compared.nginx.asked.is_empty() && compared.ours.asked.is_empty();
            *part == DifferingPart::Status && ["403", "405"].contains(&nginx) && ours == "404" && is_refused
        },
    },
    ListedDifference {
        name: "body-of-an-answer",
        reason: "an answer without a replica does not depend on the length of the body, which nginx checks first",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, _| {
            *part == DifferingPart::Status && nginx == "413" && compared.ours.asked.is_empty()
        },
    },
    ListedDifference {
        name: "plain-on-tls",
        reason: "a request without TLS at a TLS address is closed, where nginx answers 400",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, ours| {
            *part == DifferingPart::Status && compared.request.is_plain && (nginx, ours) == ("400", "0")
        },
    },
    ListedDifference {
        name: "accel-headers",
        reason: "X-Accel-* and X-Pad of a replica are passed on, where nginx acts on them",
        is_general: true,
        remark: "",
        explains: |_, part, nginx, _| match part {
            DifferingPart::ResponseHeader(name) => {
                nginx == "None" && (name == "x-pad" || name.starts_with("x-accel-") && name != "x-accel-buffering")
            }
            _ => false,
        },
    },
    ListedDifference {
        name: "files",
        reason: "files are not served: a location that would is 404",
        is_general: false,
        remark: "files are not served",
        explains: |compared, _, _, ours| {
            compared.nginx.asked.is_empty() && compared.ours.asked.is_empty() && (ours == "404" || ours == "None")
        },
    },
    ListedDifference {
        name: "redirects-of-replicas",
        reason: "a redirect of a replica to itself leads through the router, with `proxy_redirect off` too",
        is_general: false,
        remark: "",
        explains: |_, part, _, _| *part == DifferingPart::ResponseHeader("location".to_owned()),
    },
    ListedDifference {
        name: "redirect-words",
        reason: "redirects to a path with a slash name the host and port that the client has asked for",
        is_general: false,
        remark: "redirects to a path with a slash name the host and port",
        explains: |_, part, _, _| *part == DifferingPart::ResponseHeader("location".to_owned()),
    },
    ListedDifference {
        name: "key-not-forwarded",
        reason: "replicas do not get the keys of the router",
        is_general: true,
        remark: KEY_REMARK,
        explains: |_, part, nginx, ours| {
            let is_key = |name: &str| DifferingPart::RequestHeader(name.to_owned()) == *part;
            (is_key("authorization") || is_key("x-api-key")) && ours == "None" && nginx != "None"
        },
    },
    ListedDifference {
        name: "key-status",
        reason: "a request without its key gets 401 and an error of the API",
        is_general: true,
        remark: KEY_REMARK,
        explains: |compared, part, nginx, _| {
            let is_refused = compared.nginx.asked.is_empty() && compared.ours.asked.is_empty();
            let is_answer = match part {
                DifferingPart::Status => nginx == "403",
                DifferingPart::ResponseBody => true,
                DifferingPart::ResponseHeader(name) => name == "content-type",
                _ => false,
            };
            compared.ours.status() == 401 && is_refused && is_answer
        },
    },
    ListedDifference {
        name: "key-spelling",
        reason: "the same key is taken as `Bearer` in any case and as X-Api-Key",
        is_general: true,
        remark: KEY_REMARK,
        explains: |compared, part, nginx, _| {
            let values = ["authorization", "x-api-key"].map(|name| compared.request.header_values(name));
            let keys = values.iter().flatten().flatten().filter_map(|value| value.split(' ').next_back());
            let has_key = keys.into_iter().any(|key| {
                let text = &compared.case.text;
                [format!("Bearer {key}\""), format!("\"{key}\"")].iter().any(|written| text.contains(written.as_str()))
            });
            let is_refused = ["401", "403", "[]"].contains(&nginx);
            has_key && is_refused && matches!(part, DifferingPart::Status | DifferingPart::Replicas)
        },
    },
    ListedDifference {
        name: "expires",
        reason: "the expiry of responses is up to the replicas",
        is_general: false,
        remark: "the expiry of responses is up to the replicas",
        explains: |_, part, _, _| {
            let header = |name: &str| DifferingPart::ResponseHeader(name.to_owned());
            [header("expires"), header("cache-control")].contains(part)
        },
    },
    ListedDifference {
        name: "key-case",
        reason: "a key is compared in its case, where nginx's `map` ignores it",
        is_general: false,
        remark: KEY_REMARK,
        explains: |compared, part, _, _| {
            let is_refused = compared.nginx.status() == 200 && compared.ours.status() == 401;
            is_refused && matches!(part, DifferingPart::Status | DifferingPart::Replicas)
        },
    },
    ListedDifference {
        name: LOG_CONDITION,
        reason: "`if` of `access_log` cannot be carried: every request is logged",
        is_general: false,
        remark: LOG_CONDITION_REMARK,
        explains: |_, part, _, _| matches!(part, DifferingPart::Log(_)),
    },
    ListedDifference {
        name: "host-of-none",
        reason: "a request without Host has no `$host` where one server takes all requests",
        is_general: false,
        remark: "",
        explains: |compared, part, _, _| {
            let is_host = ["host", "x-host-var"].map(|name| DifferingPart::RequestHeader(name.to_owned()));
            compared.request.header_values("host").is_none() && is_host.contains(part)
        },
    },
];

/// Returns whether the case allows a difference of its logs.
pub(crate) fn is_listed_log(allowed: &[&str], imported: &str) -> bool {
    allowed.contains(&LOG_CONDITION) && imported.contains(LOG_CONDITION_REMARK)
}

/// Returns the difference of the list that explains one, if the case allows it.
pub(crate) fn find_listed(
    compared: &ComparedRequest<'_>,
    allowed: &[&str],
    (part, nginx, ours): (&DifferingPart, &str, &str),
) -> Option<&'static ListedDifference> {
    LISTED_DIFFERENCES.iter().find(|listed| {
        let is_allowed = listed.is_general || allowed.contains(&listed.name);
        is_allowed && (listed.explains)(compared, part, nginx, ours)
    })
}

/// A difference that no directive decides is in the manual; a remark names each of the others.
#[test]
fn differences_of_every_import_are_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nginx.md");
    let page = std::fs::read_to_string(page).unwrap();
    for listed in LISTED_DIFFERENCES.iter().filter(|listed| listed.remark.is_empty()) {
        assert!(page.contains(listed.reason), "docs/nginx.md does not say: {}", listed.reason);
    }
}
