//! However an answer is cut, the same is seen of it and the same goes on; well-formed streams are framed as
//! eventsource-stream frames them; one that breaks off can be ended.

#![no_main]

#[path = "../../src/upstream/sieve.rs"]
#[allow(dead_code, reason = "the program uses all of it")]
mod sieve;

use std::convert::Infallible;

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use sieve::Sieve;
use tokenweir::balance::Dice;
use tokenweir::sse::{self, Frame, HEAD_BYTES, Judged, Kind, Observer, Scanner, Seen, error_event};
use tokenweir::units::Dialect;

const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Messages, Dialect::Other];

// The first byte says how the stream is read, the second one how it is cut.
fuzz_target!(|data: &[u8]| {
    let [how, seed, stream @ ..] = data else { return };
    let how = How { dialect: DIALECTS[usize::from(how & 7) % 5], takes_usage: how & 0x40 != 0, stops: how & 0x80 != 0 };
    let mut dice = Dice::seeded((*seed).into());
    let pieces = cut(stream, 1 << (seed % 13), &mut dice);
    for kind in [Kind::Stream, Kind::Whole] {
        let whole = observed(how.dialect, kind, [stream]);
        assert_eq!(observed(how.dialect, kind, pieces.iter().map(|piece| &**piece)), whole, "{kind:?}");
        if kind == Kind::Stream {
            tiles(&whole.0, stream);
            sifted(how, &pieces, &whole.0, stream);
        }
    }
    assert_eq!(frames(pieces.iter().map(|piece| &**piece)), frames([stream]));
    broken_off(how, &pieces, dice.below(pieces.len() as u64 + 1) as usize);
    framed_as_the_oracle_does(stream);
});

#[derive(Clone, Copy)]
struct How {
    dialect: Dialect,
    takes_usage: bool,
    stops: bool,
}

fn cut(stream: &[u8], most: u64, dice: &mut Dice) -> Vec<Bytes> {
    let (mut rest, mut pieces) = (Bytes::copy_from_slice(stream), Vec::new());
    while !rest.is_empty() {
        pieces.push(rest.split_to(rest.len().min(1 + dice.below(most) as usize)));
    }
    pieces
}

/// All that an observer can tell.
fn observed<'a>(dialect: Dialect, kind: Kind, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Judged>, String) {
    let mut observer = Observer::new(dialect, kind);
    let mut judged = Vec::new();
    let mut all = Seen::default();
    let mut add = |seen: Seen| {
        all.events += seen.events;
        all.content_events += seen.content_events;
    };
    for piece in pieces {
        add(observer.judge(piece, |event| judged.push(event)));
    }
    let held = observer.held();
    add(observer.finish_judging(|event| judged.push(event)));
    let said =
        [observer.first_content_seen(), observer.done(), observer.error(), observer.refused(), observer.aborted()];
    (judged, format!("{all:?} {held} {said:?} {:?} {:?}", observer.usage(), observer.id()))
}

fn tiles(judged: &[Judged], stream: &[u8]) {
    let end = judged.iter().fold(0, |end, event| {
        assert!(event.range.start == end && event.range.end > end, "{:?} after {end}", event.range);
        event.range.end
    });
    assert_eq!(end, stream.len() as u64);
}

/// What goes on is what came, less the usage event and what follows an abort.
fn sifted(how: How, pieces: &[Bytes], judged: &[Judged], stream: &[u8]) {
    let short = judged.iter().all(|event| event.range.end - event.range.start <= HEAD_BYTES as u64);
    let (takes_usage, stops) = (how.takes_usage && short, how.stops && short);
    let (mut sieve, mut observer) = (Sieve::new(takes_usage, stops), Observer::new(how.dialect, Kind::Stream));
    let mut passed = Vec::new();
    for piece in pieces {
        sieve.push(piece, &mut observer);
        passed.extend(std::iter::from_fn(|| sieve.pop()).flatten());
        if sieve.aborted {
            break;
        }
    }
    if !sieve.aborted {
        sieve.finish(&mut observer);
    }
    passed.extend(std::iter::from_fn(|| sieve.pop()).flatten());
    let until_abort = judged.iter().take_while(|event| !(stops && event.aborted));
    let kept = until_abort.filter(|event| !(takes_usage && event.usage_only));
    let wanted: Vec<u8> =
        kept.flat_map(|event| &stream[event.range.start as usize..event.range.end as usize]).copied().collect();
    assert_eq!(String::from_utf8_lossy(&passed), String::from_utf8_lossy(&wanted));
    assert_eq!(sieve.aborted, stops && judged.iter().any(|event| event.aborted));
}

/// A stream that breaks off after some pieces is ended by an event that a client can read.
fn broken_off(how: How, pieces: &[Bytes], after: usize) {
    let (mut sieve, mut observer) = (Sieve::new(how.takes_usage, how.stops), Observer::new(how.dialect, Kind::Stream));
    for piece in &pieces[..after] {
        sieve.push(piece, &mut observer);
        if sieve.aborted {
            break;
        }
    }
    let Some(ending) = error_event(how.dialect, "it broke", sieve.events()) else { return };
    sieve.end_with(ending);
    let told: Vec<u8> = std::iter::from_fn(|| sieve.pop()).flatten().collect();
    let mut client = Observer::new(how.dialect, Kind::Stream);
    let mut last = None;
    client.judge(&told, |event| last = Some(event));
    assert!(client.held() == 0 && last.is_some_and(|event| event.error), "{}", String::from_utf8_lossy(&told));
}

type Owned = (Vec<u8>, Option<Vec<u8>>, Vec<u8>, std::ops::Range<u64>);

fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    let mut each = |f: Frame<'_>| found.push((f.event.to_vec(), f.data.map(<[u8]>::to_vec), f.tail.to_vec(), f.range));
    pieces.into_iter().for_each(|piece| scanner.scan(piece, &mut each));
    scanner.finish(&mut each);
    found
}

/// Of streams that it does not stumble over: it panics at a byte order mark, and loses what follows bytes that are no
/// text, and a last event without its blank line.
fn framed_as_the_oracle_does(stream: &[u8]) {
    let ended = [stream, b"\n\n"].concat();
    let ours = frames([&ended[..]]);
    let long = ours.iter().any(|(.., range)| range.end - range.start > HEAD_BYTES as u64);
    if std::str::from_utf8(stream).is_err() || stream.starts_with("\u{feff}".as_bytes()) || long {
        return;
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it was text before");
    let named = |event: Vec<u8>| if event.is_empty() { "message".to_owned() } else { text(event) };
    let ours: Vec<_> = ours.into_iter().filter_map(|(event, data, ..)| Some((named(event), text(data?)))).collect();
    let events = stream::iter([Ok::<_, Infallible>(ended)]).eventsource();
    let theirs = events.map(|event| event.map(|event| (event.event, event.data)).expect("it is text"));
    assert_eq!(ours, theirs.collect::<Vec<_>>().now_or_never().expect("nothing is waited for"));
}
