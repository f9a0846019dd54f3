//! The differences that are meant. Any other fails the comparison.

use std::net::SocketAddr;

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

/// All differences that are meant.
pub(crate) const LISTED_DIFFERENCES: [ListedDifference; 18] = [
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
        name: "uncompressed-answers",
        reason: "API responses are requested uncompressed, so that their token counts can be read",
        is_general: true,
        remark: "",
        explains: |_, part, _, ours| {
            *part == DifferingPart::RequestHeader("accept-encoding".to_owned()) && ours == "None"
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
        name: "accepted-handshake",
        reason: "ssl_reject_handshake cannot be carried: the client gets the first certificate, and no replica",
        is_general: false,
        remark: "ssl_reject_handshake",
        explains: |compared, part, _, _| {
            let is_rejected = compared.nginx.result.certificate.is_none() && compared.nginx.status() == 0;
            is_rejected
                && compared.ours.asked.is_empty()
                && matches!(part, DifferingPart::Status | DifferingPart::Certificate)
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
        reason: "the 400 to a malformed request has no headers of add_header: no host is known yet",
        is_general: true,
        remark: "",
        explains: |compared, part, _, ours| {
            let is_refused = compared.nginx.status() == 400 && compared.ours.status() == 400;
            is_refused
                && compared.ours.asked.is_empty()
                && matches!(part, DifferingPart::ResponseHeader(_))
                && ours == "None"
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
        reason: "a path that leads nowhere gets 404 for every method, where nginx has 405 for some",
        is_general: true,
        remark: "",
        explains: |compared, part, nginx, ours| {
            let is_refused = compared.nginx.asked.is_empty() && compared.ours.asked.is_empty();
            *part == DifferingPart::Status && (nginx, ours) == ("405", "404") && is_refused
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
        remark: "addresses in redirects are those of the configuration",
        explains: |_, part, _, _| *part == DifferingPart::ResponseHeader("location".to_owned()),
    },
];

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
