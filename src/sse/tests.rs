//! Captured responses of real servers, and generated ones, cut in every way; eventsource-stream is the oracle.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use eventsource_stream::Eventsource;
use futures_util::{StreamExt, stream};
use memchr::memmem;
use proptest::prelude::*;

use super::*;
use crate::dialect::{Dialect, ErrorBlame};
use crate::units::Usage;

struct CapturedAnswer {
    name: String,
    dialect: Dialect,
    format: BodyFormat,
    body: Vec<u8>,
}

/// Everything that an observer reports of a complete response.
#[derive(Clone, Debug, Default, PartialEq)]
struct ObservedAnswer {
    events: u32,
    content_events: u32,
    event_infos: Vec<EventInfo>,
    usage: Option<Usage>,
    id: Option<String>,
    has_content: bool,
    has_error: bool,
    aborted: bool,
    done: bool,
}

fn load_captures() -> Vec<CapturedAnswer> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let mut paths: Vec<_> = fs::read_dir(root)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten().map(|file| file.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "http"))
        .collect();
    paths.sort();
    paths.iter().map(|path| load_capture(path)).collect()
}

fn load_capture(path: &Path) -> CapturedAnswer {
    let raw = fs::read(path).unwrap();
    let end = memmem::find(&raw, b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&raw[..end]).to_lowercase();
    let body = raw[end + 4..].to_vec();
    let server = path.parent().unwrap().file_name().unwrap().to_string_lossy();
    let name = path.file_stem().unwrap().to_string_lossy();
    let dialect = match name.split(['-', '.']).next().unwrap() {
        "chat" | "midstream" | "plain" => Dialect::Chat,
        "completions" => Dialect::Completions,
        "responses" => Dialect::Responses,
        "messages" if !name.contains("count") => Dialect::Messages,
        _ => Dialect::Other,
    };
    CapturedAnswer {
        name: format!("{server}/{name}"),
        dialect,
        format: if head.contains("text/event-stream") { BodyFormat::Stream } else { BodyFormat::Json },
        body: if head.contains("transfer-encoding: chunked") { decode_chunked(&body) } else { body },
    }
}

/// Returns the body without its chunk framing. Where the middle was removed, chunks that were cut are left out.
fn decode_chunked(mut framed: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = b"\n...cut...\n";
    let mut body = Vec::new();
    if let Some(cut) = memmem::find(framed, MARK) {
        body = decode_chunked(&framed[..cut]);
        framed = &framed[cut + MARK.len()..];
        framed = &framed[memmem::find(framed, b"\n\n\r\n").unwrap() + 4..];
    }
    while let Some(line) = memmem::find(framed, b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&framed[..line]).unwrap(), 16).unwrap();
        let Some(chunk) = framed.get(line + 2..line + 2 + size) else { break };
        body.extend_from_slice(chunk);
        framed = framed.get(line + 2 + size + 2..).unwrap_or_default();
    }
    body
}

fn observe_body<'a>(dialect: Dialect, kind: BodyFormat, chunks: impl IntoIterator<Item = &'a [u8]>) -> ObservedAnswer {
    let mut observer = BodyObserver::new(dialect, kind);
    let mut all = ObservedAnswer::default();
    let mut add = |stats: ChunkStats| {
        all.events += stats.events;
        all.content_events += stats.content_events;
    };
    let mut infos = Vec::new();
    for chunk in chunks {
        add(observer.observe_events(chunk, |info| infos.push(info)));
    }
    add(observer.finish_events(|info| infos.push(info)));
    ObservedAnswer {
        event_infos: infos,
        usage: observer.usage(),
        id: observer.id().map(str::to_owned),
        has_content: observer.has_content(),
        has_error: observer.has_error(),
        aborted: observer.is_aborted(),
        done: observer.is_done(),
        ..all
    }
}

fn observe_stream(dialect: Dialect, text: &str) -> ObservedAnswer {
    observe_body(dialect, BodyFormat::Stream, [text.as_bytes()])
}

#[test]
fn captured_responses_have_their_content_usage_and_end() {
    // Content events, then prompt, cached and completion tokens, then done, error, aborted.
    let rows = [
        ("vllm-0.32.0/chat-stream", 8, None, [true, false, false]),
        ("vllm-0.32.0/chat-stream-usage", 8, Some((12, Some(0), 8)), [true, false, false]),
        ("vllm-0.32.0/chat-stream-n2-usage", 9, Some((12, Some(0), 10)), [true, false, false]),
        ("vllm-0.32.0/chat-long-2-cached", 1, Some((491, Some(480), 2)), [true, false, false]),
        ("vllm-0.32.0/completions-stream-usage", 6, Some((2, Some(0), 6)), [true, false, false]),
        ("vllm-0.32.0/responses-stream", 2, Some((7, Some(0), 4)), [true, false, false]),
        ("vllm-0.32.0/responses-plain", 1, Some((7, Some(0), 8)), [true, false, false]),
        ("vllm-0.32.0/messages-stream", 4, Some((12, Some(0), 4)), [true, false, false]),
        ("vllm-0.32.0/messages-plain", 1, Some((12, Some(0), 4)), [true, false, false]),
        ("vllm-0.32.0/midstream-engine-killed.cut", 19, None, [true, true, false]),
        ("vllm-0.32.0/midstream-sigterm.cut", 17, Some((6, Some(0), 382)), [true, false, true]),
        ("vllm-0.32.0/plain-engine-killed", 1, None, [true, true, false]),
        ("vllm-0.32.0/plain-sigterm", 1, Some((6, Some(0), 381)), [true, false, true]),
        ("transformers-serve-5.19.0/chat-stream-usage", 6, Some((12, None, 8)), [false, false, false]),
        ("transformers-serve-5.19.0/responses-stream", 1, Some((7, Some(0), 4)), [true, false, false]),
    ];
    let captures = load_captures();
    for (name, content_events, usage, [done, error, aborted]) in rows {
        let c = captures.iter().find(|c| c.name == name).unwrap();
        let all = observe_body(c.dialect, c.format, [c.body.as_slice()]);
        let counts = all.usage.map(|u| (u.prompt.0, u.cached.map(|t| t.0), u.completion.0));
        let state = (all.content_events, counts, [all.done, all.has_error, all.aborted]);
        assert_eq!(state, (content_events, usage, [done, error, aborted]), "{name}");
    }
}

#[test]
fn response_ids_are_found_in_events_and_documents() {
    let captures = load_captures();
    let id = |name: &str| {
        let c = captures.iter().find(|c| c.name == name).unwrap();
        observe_body(c.dialect, c.format, [c.body.as_slice()]).id.unwrap()
    };
    assert_eq!(id("vllm-0.32.0/responses-stream"), "resp_827892ec908166f0");
    assert_eq!(id("vllm-0.32.0/responses-plain"), "resp_9e1bc2f3873d2793");
    assert_eq!(id("transformers-serve-5.19.0/responses-stream"), "resp_cap-responses-stream");
    assert_eq!(id("vllm-0.32.0/chat-stream"), "chatcmpl-cap-chat-stream");
    assert_eq!(id("vllm-0.32.0/messages-stream"), "chatcmpl-cap-messages-stream");
}

#[test]
fn captures_cut_at_every_byte_give_the_same_result() {
    for c in load_captures() {
        let whole = observe_body(c.dialect, c.format, [c.body.as_slice()]);
        for at in 0..=c.body.len() {
            let (left, right) = c.body.split_at(at);
            assert_eq!(observe_body(c.dialect, c.format, [left, right]), whole, "{} cut at {at}", c.name);
        }
        assert_eq!(observe_body(c.dialect, c.format, c.body.chunks(1)), whole, "{} byte by byte", c.name);
    }
}

#[test]
fn ranges_of_captured_streams_tile_them() {
    for c in load_captures().iter().filter(|c| c.format == BodyFormat::Stream) {
        let all = observe_body(c.dialect, c.format, [c.body.as_slice()]);
        assert_tiles(all.event_infos.iter().map(|j| j.range.clone()), &c.body);
    }
}

fn assert_tiles(ranges: impl Iterator<Item = std::ops::Range<u64>>, stream: &[u8]) {
    let end = ranges.fold(0, |end, range| {
        assert_eq!(range.start, end);
        assert!(range.end > end);
        range.end
    });
    assert_eq!(end, stream.len() as u64);
}

#[test]
fn usage_event_differs_from_content_that_carries_usage() {
    let infos = |name: &str| {
        let captures = load_captures();
        let c = captures.iter().find(|c| c.name == name).unwrap();
        observe_body(c.dialect, c.format, [c.body.as_slice()]).event_infos
    };
    let alone = infos("vllm-0.32.0/chat-stream-usage");
    let at: Vec<_> = (0..alone.len()).filter(|i| alone[*i].usage_only).collect();
    assert_eq!(at, [alone.len() - 2]);
    assert!(alone.last().unwrap().done);
    assert!(infos("transformers-serve-5.19.0/chat-stream-usage").iter().all(|j| !j.usage_only));
    let continuous = infos("vllm-0.32.0/chat-stream-continuous-usage");
    assert_eq!(continuous.iter().filter(|j| j.usage_only).count(), 1);
}

#[test]
fn arrays_are_not_read_as_objects() {
    // Read by the order of the fields, the fifth member would be an error and the numbers would be counts.
    for event in ["[1,2,3,4,5]", r#"{"usage":[1,2,3]}"#, r#"{"choices":[[{"content":"a"}]]}"#] {
        for dialect in [Dialect::Chat, Dialect::Other] {
            let all = observe_stream(dialect, &format!("data: {event}\n\n"));
            assert_eq!((all.has_error, all.usage, all.has_content), (false, None, false), "{event}");
            assert!(!all.event_infos[0].has_usage && !all.event_infos[0].usage_only, "{event}");
        }
    }
    let response = r#"data: {"type":"response.completed","response":[{"id":1}],"usage":{"input_tokens":[7]}}"#;
    assert_eq!(observe_stream(Dialect::Responses, response).usage, None);
    let whole = observe_body(Dialect::Chat, BodyFormat::Json, [&br#"{"usage":[1,2,3]}"#[..]]);
    assert_eq!((whole.usage, whole.done), (None, true));
}

#[test]
fn unreadable_choices_are_not_a_usage_event() {
    for (choices, content) in [
        (r#"[{"text":"a","text":"b"}]"#, true),
        (r#"[{"delta":{"content":"a"}},5]"#, true),
        (r#"["a"]"#, false),
        (r#"{"text":"a"}"#, false),
    ] {
        let event = format!("data: {{\"choices\":{choices},\"usage\":{{\"prompt_tokens\":3}}}}\n\n");
        let all = observe_stream(Dialect::Completions, &event);
        assert_eq!((all.event_infos[0].has_usage, all.event_infos[0].usage_only), (true, false), "{choices}");
        assert_eq!(all.has_content, content, "{choices}");
    }
    let twice = r#"{"choices":[{"finish_reason":"abort","finish_reason":"abort"}]}"#;
    assert!(observe_stream(Dialect::Completions, &format!("data: {twice}\n\n")).aborted);
}

#[test]
fn stream_without_the_usage_event_is_otherwise_the_same() {
    for end in ["\n", "\r\n", "\r"] {
        let event = |data: &str| format!("event: x{end}data: {data}{end}{end}");
        let (content, usage) = (r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[],"usage":{"prompt_tokens":3}}"#);
        let stream = event(content) + &event(usage) + &event("[DONE]");
        for at in 0..=stream.len() {
            let (left, right) = stream.as_bytes().split_at(at);
            let all = observe_body(Dialect::Completions, BodyFormat::Stream, [left, right]);
            let kept =
                all.event_infos.iter().filter(|j| !j.usage_only).map(|j| j.range.start as usize..j.range.end as usize);
            let trimmed: String = kept.map(|range| &stream[range]).collect();
            assert_eq!(trimmed, event(content) + &event("[DONE]"), "{end:?} cut at {at}");
        }
    }
}

#[test]
fn keys_within_text_are_ignored() {
    let text = serde_json::to_string(r#""usage":{"prompt_tokens":9},"finish_reason":"abort","error":{}"#).unwrap();
    let first = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    for word in [text.as_str(), r#""usage""#, r#""abort""#, r#""error""#] {
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Other] {
            let all = observe_stream(
                dialect,
                &format!("{first}\n\ndata: {{\"choices\":[{{\"delta\":{{\"content\":{word}}}}}]}}\n\n"),
            );
            assert_eq!((all.content_events, all.usage, all.has_error, all.aborted), (2, None, false, false), "{word}");
        }
        let delta = format!("event: response.output_text.delta\ndata: {{\"delta\":{word}}}\n\n");
        let all = observe_stream(Dialect::Responses, &delta);
        assert_eq!((all.content_events, all.usage, all.has_error, all.done), (1, None, false, false));
    }
}

#[test]
fn first_content_event_is_parsed_exactly() {
    let content = |dialect, choice: &str| {
        observe_stream(dialect, &format!("data: {{\"choices\": [ {choice} ]}}\n\n")).has_content
    };
    for empty in [
        "{}",
        r#"{"delta":{"role":"assistant","content":""}}"#,
        r#"{"delta":{"content":null,"tool_calls":[]}}"#,
        r#"{"text":""}"#,
        r#"{"text":"","token_ids":[]}"#,
        r#"{"text":"","token_ids":null}"#,
    ] {
        assert!(!content(Dialect::Chat, empty), "{empty}");
    }
    for full in [
        r#"{"delta":{"content":"a"}}"#,
        r#"{"delta":{"reasoning":"a"}}"#,
        r#"{"delta":{"reasoning_content":"a"}}"#,
        r#"{"delta":{"tool_calls":[{"index":0}]}}"#,
        r#"{"delta":{"refusal":"no"}}"#,
        r#"{"delta":{"function_call":{"name":"f"}}}"#,
        r#"{"text":"a"}"#,
        r#"{"text":"","token_ids":[5]}"#,
        r#"{"delta":{"content":""}}, {"delta":{"content":"a"}}"#,
    ] {
        assert!(content(Dialect::Completions, full), "{full}");
    }
    assert!(!observe_stream(Dialect::Chat, "data: {\"choices\":[],\"usage\":null}\n\n").has_content);
}

#[test]
fn errors_and_ends_are_read_in_every_dialect() {
    for (dialect, text, expected) in [
        (Dialect::Chat, "data: {\"error\": {\"message\": \"x\"}}\n\ndata: [DONE]\n\n", (true, true)),
        (Dialect::Chat, "data: {\"object\":\"error\",\"message\":\"x\"}\n\n", (true, false)),
        (Dialect::Chat, "data: {\"error\":{\"message\": not json\n\n", (true, false)),
        (Dialect::Chat, "data: {\"error\":null,\"choices\":[]}\n\n", (false, false)),
        (Dialect::Chat, "data: {\"error\": \"\",\"choices\":[]}\n\n", (false, false)),
        (Dialect::Chat, "data: {\"error\":{},\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", (false, false)),
        (Dialect::Completions, "data: {\"error\":[ ],\"choices\":[{\"text\":\"a\"}]}\n\n", (false, false)),
        (Dialect::Completions, "data: {\"error\":false, not json\n\n", (false, false)),
        (Dialect::Responses, "data: {\"error\":{\"code\":0,\"message\":\"\"}}\n\n", (false, false)),
        (Dialect::Messages, "data: {\"error\":0}\n\n", (false, false)),
        (Dialect::Chat, "data: {\"error\":true}\n\n", (true, false)),
        (Dialect::Responses, "data: {\"error\": {\"message\": \"x\"}}\n\n", (true, false)),
        (Dialect::Responses, "event: error\ndata: {\"message\":\"x\"}\n\n", (true, false)),
        (Dialect::Responses, "data: {\"type\":\"response.failed\",\"response\":{\"id\":\"a\"}}\n\n", (true, true)),
        (Dialect::Responses, "event: response.incomplete\ndata: {}\n\n", (false, true)),
        (Dialect::Messages, "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", (true, false)),
        (Dialect::Messages, "data: {\"type\": \"message_stop\"}", (false, true)),
    ] {
        let all = observe_stream(dialect, text);
        assert_eq!((all.has_error, all.done), expected, "{text}");
    }
}

#[test]
fn message_that_stops_without_a_reason_is_aborted() {
    let delta = |reason: &str| {
        format!("event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":{reason}}}}}\n\n")
    };
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"stop_reason\":null}}\n\n";
    for (events, expected) in [
        (delta("null") + stop, true),
        (delta("\"end_turn\"") + stop, false),
        (delta("null") + &delta("\"max_tokens\"") + stop, false),
        (delta("null"), false),
        (stop.to_owned(), false),
    ] {
        assert_eq!(observe_stream(Dialect::Messages, &format!("{start}{events}")).aborted, expected, "{events}");
    }
    let whole = |dialect, reason: &str| {
        let text = format!("{{\"type\":\"message\",\"content\":[{{\"stop_reason\":null}}],\"stop_reason\":{reason}}}");
        observe_body(dialect, BodyFormat::Json, [text.as_bytes()]).aborted
    };
    assert!(whole(Dialect::Messages, "null") && !whole(Dialect::Messages, "\"end_turn\""));
    assert!(!whole(Dialect::Chat, "null"));
}

#[test]
fn latest_usage_wins_and_null_is_ignored() {
    let event = |usage: &str| format!("data: {{\"choices\":[{{\"text\":\"a\"}}],\"usage\": {usage}}}\n\n");
    let usage = |n: u32| format!("{{\"prompt_tokens\":3,\"completion_tokens\":{n}}}");
    let completion = |text: String| observe_stream(Dialect::Completions, &text).usage.map(|u| u.completion.0);
    assert_eq!(completion(event("null") + &event("null")), None);
    assert_eq!(completion(event(&usage(1)) + &event(&usage(2)) + &event("null")), Some(2));
}

#[test]
fn usage_is_found_at_the_end_of_a_very_long_event() {
    let output = "x".repeat(200_000);
    let usage = r#""usage":{"input_tokens":7,"output_tokens":9}"#;
    let id = r#""id":"resp_1""#;
    let named =
        format!("event: response.completed\ndata: {{\"response\":{{{id},\"output\":\"{output}\",{usage}}}}}\n\n");
    let typed =
        format!("data: {{\"response\":{{{id},\"output\":\"{output}\",{usage}}},\"type\":\"response.completed\"}}\n\n");
    for text in [named, typed] {
        for size in [1000, 4096, text.len()] {
            let all = observe_body(Dialect::Responses, BodyFormat::Stream, text.as_bytes().chunks(size));
            assert_eq!((all.done, all.id.as_deref()), (true, Some("resp_1")));
            assert_eq!(all.usage.map(|u| (u.prompt.0, u.completion.0)), Some((7, 9)));
        }
    }
    let long = |delta: &str| {
        let ids = "1,".repeat(20_000);
        let text = format!("data: {{\"choices\":[{{\"delta\":{delta}}}],\"prompt_token_ids\":[{ids}0],{usage}}}\n\n");
        let all = observe_stream(Dialect::Chat, &text);
        (all.has_content, all.usage.is_some())
    };
    assert_eq!(long(r#"{"role":"assistant","content":""}"#), (false, true));
    assert_eq!(long(&format!("{{\"content\":\"{output}\"}}")), (true, true));
}

#[test]
fn overlong_ids_are_ignored() {
    let id = |len: usize| observe_stream(Dialect::Chat, &format!("data: {{\"id\":\"{}\"}}\n\n", "x".repeat(len))).id;
    assert_eq!(id(256).map(|id| id.len()), Some(256));
    assert_eq!(id(257), None);
}

/// Returns name and data of every event, by [`Scanner`].
fn scan_events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut each = |f: EventFrame<'_>| found.extend(f.data.map(|data| (text(f.name), text(data))));
    chunks.into_iter().for_each(|chunk| scanner.scan(chunk, &mut each));
    scanner.finish(&mut each);
    found
}

/// Returns the same by eventsource-stream.
fn oracle_events(stream: &[u8]) -> Vec<(String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let one = stream::iter([Ok::<_, Infallible>(stream.to_vec())]).eventsource();
    let events: Vec<_> = runtime.block_on(one.collect());
    let name = |event: String| if event == "message" { String::new() } else { event };
    events.into_iter().map(Result::unwrap).map(|e| (name(e.event), e.data)).collect()
}

#[test]
fn captured_streams_are_framed_as_the_oracle_frames_them() {
    for c in load_captures().iter().filter(|c| c.format == BodyFormat::Stream) {
        let ours = scan_events([c.body.as_slice()]);
        assert_eq!(ours, oracle_events(&c.body), "{}", c.name);
        assert!(!ours.is_empty());
    }
}

/// Generates bytes that matter to a scanner, and some that do not.
fn stream_noise() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"data: ",
        b"data:",
        b"event: ",
        b"error",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b": c",
        b"\xef\xbb\xbf",
        b"{\"choices\":[{",
        b"\"delta\":{\"content\":\"a\"}",
        b"}]}",
        b"\"usage\":{\"prompt_tokens\":3}",
        b"{",
        b"}",
        b"\"",
        b"\\",
        b"\"error\":",
        b"null",
        b"[DONE]",
        b"response.completed",
        b"\"type\":\"message_start\"",
        b"\xff",
        b"\"id\":\"x\"",
        b"\"finish_reason\":\"abort\"",
        b",",
        b"[",
        b"]",
        b" ",
        b"content_block_delta",
        b"\"choices\":",
    ];
    let word = prop_oneof![9 => prop::sample::select(words).prop_map(<[u8]>::to_vec), 1 => any::<Vec<u8>>()];
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

/// Generates a well-formed stream in which all lines end the same way.
fn well_formed_stream() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "[ -~é]{0,12}".prop_map(|text| format!("data: {text}")),
        1 => "[a-z.]{1,9}".prop_map(|text| format!("event: {text}")),
        1 => "[a-z ]{0,9}".prop_map(|text| format!(": {text}")),
    ];
    let event = prop::collection::vec(line, 1..5).prop_filter("has data", |lines| {
        lines.iter().any(|line| line.strip_prefix("data: ").is_some_and(|data| !data.is_empty()))
    });
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    (prop::collection::vec(event, 0..6), end)
        .prop_map(|(events, end)| events.into_iter().map(|lines| lines.join(end) + end + end).collect())
}

/// Returns `stream` cut at `cuts`, modulo its length.
fn split_at_cuts<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.push(0);
    at.push(stream.len());
    at.sort_unstable();
    at.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect()
}

proptest! {
    #[test]
    fn any_bytes_give_the_same_result_for_any_chunks(
        stream in stream_noise(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages] {
            for kind in [BodyFormat::Stream, BodyFormat::Json] {
                let whole = observe_body(dialect, kind, [stream.as_slice()]);
                prop_assert_eq!(&observe_body(dialect, kind, split_at_cuts(&stream, &cuts)), &whole);
                prop_assert_eq!(&observe_body(dialect, kind, stream.chunks(1)), &whole);
                if kind == BodyFormat::Stream {
                    assert_tiles(whole.event_infos.iter().map(|j| j.range.clone()), &stream);
                }
            }
        }
    }

    #[test]
    fn well_formed_streams_are_framed_as_the_oracle_frames_them(
        stream in well_formed_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(scan_events(split_at_cuts(stream.as_bytes(), &cuts)), oracle_events(stream.as_bytes()));
    }
}

#[test]
fn errors_are_blamed_by_their_code_or_type() {
    use ErrorBlame::{Load, Replica, Request};
    for (dialect, event, blame) in [
        (Dialect::Chat, r#"data: {"error":{"message":"x","type":"BadRequestError","param":null,"code":400}}"#, Request),
        (Dialect::Chat, r#"data: {"error":{"message":"x","type":"InternalServerError","code":500}}"#, Replica),
        (Dialect::Chat, r#"data: {"error":{"message":"x","type":"BadRequestError","code":500}}"#, Replica),
        (Dialect::Chat, r#"data: {"error":{"message":"x","code":429}}"#, Load),
        (Dialect::Chat, r#"data: {"error":{"message":"x","code":"400"}}"#, Request),
        (Dialect::Chat, r#"data: {"error":{"message":"x","code":424}}"#, Replica),
        (Dialect::Chat, r#"data: {"error":{"message":"x","code":501}}"#, Replica),
        (Dialect::Completions, r#"data: {"error":{"type":"invalid_request_error","code":null}}"#, Request),
        (Dialect::Completions, r#"data: {"error":"x"}"#, Replica),
        (Dialect::Responses, "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":404}}", Request),
        (Dialect::Messages, r#"data: {"type":"error","error":{"type":"invalid_request_error"}}"#, Request),
        (Dialect::Messages, r#"data: {"type":"error","error":{"type":"overloaded_error"}}"#, Load),
    ] {
        let mut observer = BodyObserver::new(dialect, BodyFormat::Stream);
        let mut infos = Vec::new();
        observer.observe_events(format!("{event}\n\n").as_bytes(), |info| {
            infos.push(info.error);
        });
        assert_eq!(
            (infos, observer.has_error(), observer.has_busy_error(), observer.has_client_error()),
            (vec![Some(blame)], blame == Replica, blame == Load, blame == Request),
            "{event}"
        );
    }
}

#[test]
fn error_event_is_one_error_and_no_end() {
    for dialect in Dialect::ALL {
        let Some(event) = dialect.error_event("it \"broke\"\n", 7) else {
            assert_eq!(dialect, Dialect::Other);
            continue;
        };
        let all = observe_stream(dialect, &event);
        assert_eq!((all.events, all.has_error, all.done), (1, true, false), "{event}");
        assert_eq!(all.event_infos[0].error, Some(ErrorBlame::Replica), "{event}");
    }
}

#[test]
fn waiting_comment_is_not_an_event() {
    let mut observer = BodyObserver::new(Dialect::Chat, BodyFormat::Stream);
    observer.observe_events(WAITING_COMMENT.as_bytes(), |info| assert!(!info.is_event));
    assert_eq!((observer.pending_bytes(), observer.has_content()), (0, false));
}
