use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use proptest::prelude::*;

use super::variables::VARIABLES;
use super::*;
use crate::units::{Moment, Tokens, Usage};

/// Local time is 5:30 ahead of UTC.
const UTC_OFFSET_SECONDS: i32 = 19_800;

/// The owner of what a record borrows.
struct FormatCase {
    request_line: RequestLine,
    attempts: AttemptRecords,
    captured: CapturedFields,
    model: String,
}

fn moment_at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

impl FormatCase {
    fn new(target: &str, headers: &[(&'static str, &[u8])]) -> Self {
        let mut request_headers = HeaderMap::new();
        for (name, value) in headers {
            request_headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Self {
            request_line: RequestLine {
                method: Method::POST,
                uri: target.parse().unwrap(),
                version: Version::HTTP_11,
                request_number: 2,
                connection: ConnectionInfo {
                    number: 7,
                    socket_addrs: Some(("10.9.9.1:5555".parse().unwrap(), "10.9.9.9:80".parse().unwrap())),
                    tls: None,
                },
            },
            attempts: AttemptRecords::default(),
            captured: CapturedFields {
                request_headers,
                request_bytes: 321,
                response_head_bytes: 100,
                ..CapturedFields::default()
            },
            model: "m".to_owned(),
        }
    }

    /// Adds two attempts: a refused connection and a response.
    fn with_attempts(mut self) -> Self {
        self.attempts.start(&"a".into(), Some("10.0.0.1:8000".to_owned()), moment_at(10));
        let first = self.attempts.last_mut().unwrap();
        first.status = Some(502);
        first.timing.ended_at = Some(moment_at(10));
        self.attempts.start(&"10.0.0.2:8000".into(), Some("10.0.0.2:8000".to_owned()), moment_at(10));
        let second = self.attempts.last_mut().unwrap();
        second.status = Some(200);
        second.timing.connected_at = Some(moment_at(11));
        second.timing.head_received_at = Some(moment_at(35));
        second.timing.ended_at = Some(moment_at(310));
        self.captured.pool = Some(PoolInfo { name: "p".into(), policy: "token_cost" });
        self
    }

    fn record(&self) -> RequestRecord<'_> {
        RequestRecord {
            id: "r1",
            client_addr: "10.1.2.3",
            client_port: Some(5544),
            peer_addr: Some(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 1))),
            request_line: &self.request_line,
            server_name: Some("llm.server"),
            response: ResponseInfo { status: 200, body_bytes: 50 },
            attempts: &self.attempts,
            tokens: TokenInfo {
                model: Some(&self.model),
                usage: Some(Usage { prompt: Tokens(12), cached: None, completion: Tokens(6) }),
                first_token: Some(moment_at(60)),
            },
            times: RequestTimes {
                arrived: moment_at(8),
                ended: moment_at(319),
                overhead: Some(Duration::from_micros(42)),
                time_of_day: Duration::from_millis(1_795_355_508_042),
            },
            utc_offset: |_| UTC_OFFSET_SECONDS,
            tenant: Some("team-a"),
            outcome: "completed",
            captured: Some(&self.captured),
        }
    }

    fn render_line(&self, format: &LogFormat) -> Vec<u8> {
        let mut out = Vec::new();
        format.write_line(&self.record(), &mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    fn render_text(&self, format: &str) -> String {
        String::from_utf8(self.render_line(&LogFormat::new(format, LogEscape::Default).unwrap())).unwrap()
    }
}

#[test]
fn every_variable_has_its_value() {
    let mut case = FormatCase::new(
        "/a//b%20c?x=1&Y=%20z",
        &[
            ("host", b"LLM.Example:8080"),
            ("authorization", b"Basic YWxpY2U6c2VjcmV0"),
            ("user-agent", b"curl \"x\""),
            ("cookie", b"a=1"),
            ("cookie", b"sid=two"),
            ("x-forwarded-for", b"1.1.1.1"),
            ("x-many", b"1"),
            ("x-many", b"2"),
            ("x-empty", b""),
            ("content-type", b"application/json"),
        ],
    )
    .with_attempts();
    case.captured.response_headers.insert("content-type", HeaderValue::from_static("text/plain"));
    case.captured.upstream_headers.insert("x-engine", HeaderValue::from_static("v"));
    let now = case.record().times.time_of_day;
    for (format, expected) in [
        ("$remote_addr|$remote_port|$remote_user", "10.1.2.3|5544|alice"),
        ("$binary_remote_addr", r"\x0A\x01\x02\x03"),
        ("$realip_remote_addr|$realip_remote_port", "10.9.9.1|5555"),
        ("$time_local", &*time::format_common_log(now, UTC_OFFSET_SECONDS)),
        (
            "$time_iso8601|$time_utc",
            &*format!("{}|2026-11-22T13:51:48.042Z", time::format_iso8601(now, UTC_OFFSET_SECONDS)),
        ),
        ("$msec", "1795355508.042"),
        ("$time_utc", "2026-11-22T13:51:48.042Z"),
        ("$request", "POST /a//b%20c?x=1&Y=%20z HTTP/1.1"),
        ("$request_method $request_uri", "POST /a//b%20c?x=1&Y=%20z"),
        ("$uri|$document_uri|$path", "/a/b c|/a/b c|/a//b%20c"),
        ("$args|$query_string|$is_args", "x=1&Y=%20z|x=1&Y=%20z|?"),
        ("$arg_x|$arg_y|$arg_none", "1|%20z|-"),
        ("$request_time|$request_id|$request_length", "0.311|r1|321"),
        ("$status|$body_bytes_sent|$bytes_sent|$request_completion", "200|50|150|OK"),
        ("$http_user_agent|$http_x_none|$http_x_many|$http_x_empty", r"curl \x22x\x22|-|1, 2|"),
        ("$content_type|$content_length", "application/json|-"),
        ("$cookie_sid|$cookie_A|$cookie_none|$http_cookie", "two|1|-|a=1; sid=two"),
        ("$sent_http_content_type|$sent_http_none|$upstream_http_x_engine", "text/plain|-|v"),
        ("$upstream_addr", "10.0.0.1:8000, 10.0.0.2:8000"),
        ("$upstream_status|$upstream_response_time", "502, 200|0.000, 0.300"),
        ("$upstream_connect_time|$upstream_header_time", "-, 0.001|-, 0.025"),
        ("$upstream_cache_status|$gzip_ratio|$ssl_protocol|$ssl_cipher|$https", "-|-|-|-|"),
        ("$scheme://$host|$http_host", "http://llm.example|LLM.Example:8080"),
        ("$server_name|$server_addr|$server_port|$server_protocol", "llm.server|10.9.9.9|80|HTTP/1.1"),
        ("$connection|$connection_requests|$pipe", "7|2|."),
        ("$proxy_add_x_forwarded_for", "1.1.1.1, 10.1.2.3"),
        ("$model|$replica|$policy|$tenant", "m|10.0.0.2:8000|token_cost|team-a"),
        ("$prompt_tokens|$cached_tokens|$completion_tokens", "12|-|6"),
        ("$ttft|$tpot|$attempts|$outcome|$overhead_us", "0.052|0.050000|2|completed|42"),
    ] {
        assert_eq!(case.render_text(format), expected, "{format}");
    }
    let tested: Vec<String> = VARIABLES.iter().map(|row| format!("${}", row.name)).collect();
    assert!(tested.iter().all(|name| include_str!("tests.rs").contains(name.as_str())), "every row has a test");
}

/// The values are those of nginx 1.22.
#[test]
fn pool_without_a_replica_is_logged_as_a_failed_attempt() {
    let mut case = FormatCase::new("/", &[]);
    case.attempts.set_exhausted(&"chat".into());
    let format = "$upstream_addr|$upstream_status|$upstream_connect_time|$upstream_header_time|$upstream_response_time";
    assert_eq!(case.render_text(&format!("[{format}]")), "[chat|502|-|-|0.000]");
    assert_eq!(case.render_text("$attempts $replica"), "0 -");
    let case = case.with_attempts();
    assert_eq!(case.render_text("$upstream_addr $upstream_status"), "10.0.0.1:8000, 10.0.0.2:8000 502, 200");
}

#[test]
fn missing_values_are_hyphens() {
    let mut case = FormatCase::new("/", &[]);
    case.request_line.connection.socket_addrs = None;
    let missing = "$realip_remote_port $remote_user $args $upstream_addr $upstream_status $upstream_response_time \
                   $server_port $replica $policy $arg_a $cookie_a $http_referer";
    assert_eq!(case.render_text(missing), ["-"; 12].join(" "));
    assert_eq!(case.render_text("$proxy_add_x_forwarded_for $attempts $host"), "10.1.2.3 0 llm.server");
    assert_eq!(case.render_line(&LogFormat::new("[$args]", LogEscape::Json).unwrap()), b"[]");
    assert_eq!(case.render_line(&LogFormat::new("[$args]", LogEscape::None).unwrap()), b"[]");
}

#[test]
fn nginx_log_formats_work_unchanged() {
    let case =
        FormatCase::new("/v1/chat/completions?a", &[("referer", b"http://a/"), ("user-agent", "caf\u{e9}".as_bytes())]);
    let upstream = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" to: $upstream_addr"#;
    let expected = r#"10.1.2.3 - - [NOW] "POST /v1/chat/completions?a HTTP/1.1" 200 50 "http://a/" "caf\xC3\xA9" to: 10.0.0.1:8000, 10.0.0.2:8000"#;
    let case = case.with_attempts();
    let now = case.record().times.time_of_day;
    let expected = expected.replace("NOW", &time::format_common_log(now, UTC_OFFSET_SECONDS));
    assert_eq!(case.render_text(upstream), expected);
    let times =
        r#"rt=$request_time uct="$upstream_connect_time" uht="${upstream_header_time}" urt="$upstream_response_time""#;
    assert_eq!(case.render_text(times), r#"rt=0.311 uct="-, 0.001" uht="-, 0.025" urt="0.000, 0.300""#);
    let combined = LogFormat::built_in("combined").unwrap();
    assert_eq!(String::from_utf8(case.render_line(&combined)).unwrap(), expected.split(" to: ").next().unwrap());
}

#[test]
fn built_in_formats_have_every_field_and_no_forged_one() {
    let mut case = FormatCase::new("/v1/chat/completions?secret", &[]).with_attempts();
    case.model = "m\n\"x y".to_owned();
    let expected = "2026-11-22T13:51:48.042Z 10.1.2.3 \"POST /v1/chat/completions\" 200 10.0.0.2:8000 \
                  model=m\\x0A\\x22x\\x20y prompt=12 completion=6 ttft=0.052 time=0.311 completed id=r1";
    assert_eq!(String::from_utf8(case.render_line(&LogFormat::default())).unwrap(), expected);
    let json = case.render_line(&LogFormat::built_in("json").unwrap());
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&value["model"], &value["prompt_tokens"]), (&"m\n\"x y".into(), &12.into()));
    assert_eq!((&value["ttft"], &value["duration"], &value["status"]), (&0.052.into(), &0.311.into(), &200.into()));
    case.attempts = AttemptRecords::default();
    let json: serde_json::Value =
        serde_json::from_slice(&case.render_line(&LogFormat::built_in("json").unwrap())).unwrap();
    assert_eq!(json["upstream"], serde_json::Value::Null);
    assert!(BUILT_IN_FORMATS.iter().all(|name| LogFormat::built_in(name).is_some()));
}

#[test]
fn only_fields_that_a_format_names_are_captured() {
    assert!(
        !LogFormat::default().required_fields().needs_capture()
            && !LogFormat::built_in("json").unwrap().required_fields().needs_capture()
    );
    let required = |text: &str| LogFormat::new(text, LogEscape::Default).unwrap().required_fields().clone();
    assert!(!required("$remote_addr $request $status $upstream_addr $upstream_response_time").needs_capture());
    let names = required("$http_user_agent $cookie_a $cookie_b $sent_http_x_y $upstream_http_z");
    assert_eq!(names.request_headers, ["cookie", "user-agent"]);
    assert_eq!((names.response_headers[0].as_str(), names.upstream_headers[0].as_str()), ("x-y", "z"));
    assert!(required("$bytes_sent").sizes && required("$policy").pool && required("$server_addr").socket_addrs);
    assert!(required("$upstream_addr").upstream_addr && !required("$upstream_status").upstream_addr);
}

#[test]
fn invalid_format_is_refused_with_its_place() {
    let error = |text: &str| LogFormat::new(text, LogEscape::Default).unwrap_err();
    assert_eq!(error("a $stauts b"), LogFormatError::UnknownVariable { name: "stauts".to_owned(), span: 2..9 });
    assert_eq!(error("é${nope}"), LogFormatError::UnknownVariable { name: "nope".to_owned(), span: 2..9 });
    assert_eq!(error("$"), LogFormatError::MissingName { span: 0..1 });
    assert_eq!(error("a $ b"), LogFormatError::MissingName { span: 2..3 });
    assert_eq!(error("${status"), LogFormatError::UnclosedBrace { span: 0..8 });
    assert!(matches!(error("$http_"), LogFormatError::UnknownVariable { .. }));
    assert_eq!(FormatCase::new("/", &[]).render_text("${status}x$STATUS"), "200x200");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn client_cannot_put_a_control_character_into_a_line(
        target in "/[a-z%0-9\"\\\\\u{e9}?&=]{0,30}",
        value in proptest::collection::vec(any::<u8>(), 0..40),
        model in any::<String>(),
    ) {
        let value: Vec<u8> = value.into_iter().filter(|b| HeaderValue::from_bytes(&[*b]).is_ok()).collect();
        prop_assume!(target.parse::<Uri>().is_ok());
        let names = ["host", "authorization", "cookie", "user-agent", "x-forwarded-for", "content-type"];
        let mut case = FormatCase::new(&target, &names.map(|name| (name, &*value))).with_attempts();
        case.model = model;
        let fixed: String = VARIABLES.iter().map(|row| format!("${} ", row.name)).collect();
        let all = fixed + "$http_user_agent $cookie_a $arg_a $sent_http_a $upstream_http_a";
        for escape in [LogEscape::Default, LogEscape::Json, LogEscape::Word, LogEscape::JsonValue] {
            let line = case.render_line(&LogFormat::new(&all, escape).unwrap());
            prop_assert!(line.iter().all(|b| *b >= 0x20 && *b != 0x7f), "{escape:?}: {}", line.escape_ascii());
        }
        let json = case.render_line(&LogFormat::new(r#"{"a":"$http_user_agent","m":"$model"}"#, LogEscape::Json).unwrap());
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok(), "{}", json.escape_ascii());
    }

    #[test]
    fn no_text_makes_compile_panic(text in "[$\\{\\}a-z_\\PC]{0,40}") {
        let _ = LogFormat::new(&text, LogEscape::Default);
    }
}
