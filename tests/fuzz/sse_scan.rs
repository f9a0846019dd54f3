//! Response observation and filtering: independent of chunks, framed as eventsource-stream frames, and able to end an
//! interrupted stream by an error event.

#![no_main]

#[path = "../../src/upstream/relay/event_filter.rs"]
#[allow(dead_code, reason = "the router uses all of it")]
mod event_filter;

use std::convert::Infallible;

use bytes::Bytes;
use event_filter::{EventFilter, FilterRules};
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use tokenweir::balance::SeededRng;
use tokenweir::dialect::Dialect;
use tokenweir::sse::{self, BodyFormat, BodyObserver, ChunkStats, EventFrame, EventInfo, HEAD_BYTES, Scanner};

// The first byte selects dialect and rules, the second one the chunks.
fuzz_target!(|data: &[u8]| {
    let [options, seed, stream @ ..] = data else { return };
    let dialect = Dialect::ALL[usize::from(options & 7) % 5];
    let rules = FilterRules { removes_usage: options & 0x40 != 0, stops_at_abort: options & 0x80 != 0 };
    let mut rng = SeededRng::from_seed((*seed).into());
    let pieces = cut_randomly(stream, 1 << (seed % 13), &mut rng);
    for kind in [BodyFormat::Stream, BodyFormat::Json] {
        let whole = observe_all(dialect, kind, [stream]);
        assert_eq!(observe_all(dialect, kind, pieces.iter().map(|piece| &**piece)), whole, "{kind:?}");
        if kind == BodyFormat::Stream {
            check_ranges(&whole.0, stream);
            check_filter(dialect, rules, &pieces, &whole.0, stream);
        }
    }
    assert_eq!(scan_all(pieces.iter().map(|piece| &**piece)), scan_all([stream]));
    check_interruption(dialect, rules, &pieces, rng.next_below(pieces.len() as u64 + 1) as usize);
    check_with_oracle(stream);
});

/// Cuts a stream into pieces of up to `max` bytes.
fn cut_randomly(stream: &[u8], max: u64, rng: &mut SeededRng) -> Vec<Bytes> {
    let (mut rest, mut pieces) = (Bytes::copy_from_slice(stream), Vec::new());
    while !rest.is_empty() {
        pieces.push(rest.split_to(rest.len().min(1 + rng.next_below(max) as usize)));
    }
    pieces
}

/// Returns everything that an observer reports.
fn observe_all<'a>(
    dialect: Dialect,
    kind: BodyFormat,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<EventInfo>, String) {
    let mut observer = BodyObserver::new(dialect, kind);
    let mut events = Vec::new();
    let mut all = ChunkStats::default();
    let mut add = |seen: ChunkStats| {
        all.events += seen.events;
        all.content_events += seen.content_events;
    };
    for piece in pieces {
        add(observer.observe_events(piece, |event| events.push(event)));
    }
    let held = observer.pending_bytes();
    add(observer.finish_events(|event| events.push(event)));
    let flags = [
        observer.has_content(),
        observer.is_done(),
        observer.has_error(),
        observer.has_client_error(),
        observer.is_aborted(),
    ];
    (events, format!("{all:?} {held} {flags:?} {:?} {:?}", observer.usage(), observer.id()))
}

/// Checks that the events cover the stream without gaps.
fn check_ranges(events: &[EventInfo], stream: &[u8]) {
    let end = events.iter().fold(0, |end, event| {
        assert!(event.range.start == end && event.range.end > end, "{:?} after {end}", event.range);
        event.range.end
    });
    assert_eq!(end, stream.len() as u64);
}

/// Checks that everything passes except the usage, and the events after an abort.
fn check_filter(dialect: Dialect, rules: FilterRules, pieces: &[Bytes], events: &[EventInfo], stream: &[u8]) {
    let short = events.iter().all(|event| event.range.end - event.range.start <= HEAD_BYTES as u64);
    let rules =
        FilterRules { removes_usage: rules.removes_usage && short, stops_at_abort: rules.stops_at_abort && short };
    let (mut filter, mut observer) = (EventFilter::new(rules), BodyObserver::new(dialect, BodyFormat::Stream));
    let mut received = Vec::new();
    let mut aborted = false;
    for piece in pieces {
        aborted = filter.push(piece, &mut observer).aborted;
        received.extend(std::iter::from_fn(|| filter.pop()).flatten());
        if aborted {
            break;
        }
    }
    if !aborted {
        aborted = filter.finish(&mut observer).aborted;
    }
    received.extend(std::iter::from_fn(|| filter.pop()).flatten());
    let until_abort = events.iter().take_while(|event| !(rules.stops_at_abort && event.aborted));
    let passed = |event: &EventInfo| match &event.without_usage {
        Some(rest) if rules.removes_usage && event.usage_only => {
            assert!(!rest.contains(['\n', '\r']), "an event of several lines: {rest}");
            serde_json::from_str::<&serde_json::value::RawValue>(rest).expect("JSON");
            format!("data: {rest}\n\n").into_bytes()
        }
        None if rules.removes_usage && event.usage_only => Vec::new(),
        _ => stream[event.range.start as usize..event.range.end as usize].to_vec(),
    };
    let wanted: Vec<u8> = until_abort.flat_map(passed).collect();
    assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(&wanted));
    assert_eq!(aborted, rules.stops_at_abort && events.iter().any(|event| event.aborted));
}

/// Checks that a stream interrupted after some pieces is ended by an event that a client can read.
fn check_interruption(dialect: Dialect, rules: FilterRules, pieces: &[Bytes], after: usize) {
    let (mut filter, mut observer) = (EventFilter::new(rules), BodyObserver::new(dialect, BodyFormat::Stream));
    for piece in &pieces[..after] {
        if filter.push(piece, &mut observer).aborted {
            break;
        }
    }
    let Some(ending) = dialect.error_event("the replica failed", filter.events_sent()) else { return };
    filter.end_with(ending);
    let received: Vec<u8> = std::iter::from_fn(|| filter.pop()).flatten().collect();
    let mut client = BodyObserver::new(dialect, BodyFormat::Stream);
    let mut last = None;
    client.observe_events(&received, |event| last = Some(event));
    let ends_in_error = client.pending_bytes() == 0 && last.is_some_and(|event| event.error.is_some());
    assert!(ends_in_error, "{}", String::from_utf8_lossy(&received));
}

/// Name, data, tail and range of an event.
type OwnedFrame = (Vec<u8>, Option<Vec<u8>>, Vec<u8>, std::ops::Range<u64>);

fn scan_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<OwnedFrame> {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    let mut each =
        |f: EventFrame<'_>| found.push((f.name.to_vec(), f.data.map(<[u8]>::to_vec), f.tail.to_vec(), f.range));
    pieces.into_iter().for_each(|piece| scanner.scan(piece, &mut each));
    scanner.finish(&mut each);
    found
}

/// Compares with the oracle, for streams that it can read. It panics at a byte order mark. It loses a last event
/// without a blank line, and everything after invalid UTF-8.
fn check_with_oracle(stream: &[u8]) {
    let ended = [stream, b"\n\n"].concat();
    let ours = scan_all([&ended[..]]);
    let long = ours.iter().any(|(.., range)| range.end - range.start > HEAD_BYTES as u64);
    if std::str::from_utf8(stream).is_err() || stream.starts_with("\u{feff}".as_bytes()) || long {
        return;
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let named = |event: Vec<u8>| if event.is_empty() { "message".to_owned() } else { text(event) };
    let ours: Vec<_> = ours.into_iter().filter_map(|(event, data, ..)| Some((named(event), text(data?)))).collect();
    let events = stream::iter([Ok::<_, Infallible>(ended)]).eventsource();
    let theirs = events.map(|event| event.map(|event| (event.event, event.data)).expect("UTF-8"));
    assert_eq!(ours, theirs.collect::<Vec<_>>().now_or_never().expect("the stream is ready"));
}
