//! The observer of one answer: what its events, or its JSON, say so far.

use std::ops::Range;

use super::event::{self, Event, Seek};
use super::said::Said;
use super::scan::{Frame, Scanner};
use super::whole::Whole;
use crate::units::{Dialect, Usage};

/// How an answer's body is framed, as its content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event stream.
    Stream,
    /// One JSON document.
    Whole,
}

/// What one chunk added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Events that ended in the chunk, comments included.
    pub events: u32,
    /// Events among them that carry a piece of the answer. A JSON document counts as one, when its first byte comes.
    pub content_events: u32,
}

/// What one event of a stream is, for whoever must judge it before the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Where the event lies, in bytes from the stream's start.
    pub range: Range<u64>,
    /// It is an event; `false` for comments and blank lines.
    pub data: bool,
    /// It carries a piece of the answer.
    pub content: bool,
    /// It carries token counts.
    pub usage: bool,
    /// It carries `usage` and nothing else, as the event that `include_usage` asks for does.
    pub usage_only: bool,
    /// It reports an error.
    pub error: bool,
    /// That error is about the request, as a 4xx is.
    pub refused: bool,
    /// It says that the replica gave the answer up: `finish_reason` "abort", or a message that stops without a reason,
    /// which is how vLLM words it there.
    pub aborted: bool,
    /// It ends the answer.
    pub done: bool,
}

/// Watches the body of one answer go by.
///
/// *Shape*: what is seen does not depend on how the body is cut into chunks; any bytes are allowed.
/// *Cost*: about 70 ns for an ordinary event; JSON is parsed only up to the first content event and where an event
/// has a `usage` object or looks like a failure. Memory is bounded (see [`Scanner`]).
#[derive(Debug)]
pub struct Observer {
    dialect: Dialect,
    body: Body,
    said: Said,
}

#[derive(Debug)]
enum Body {
    Stream(Scanner),
    Whole(Whole),
}

impl Observer {
    /// An observer of an answer that has not begun.
    pub fn new(dialect: Dialect, kind: Kind) -> Self {
        let body = match kind {
            Kind::Stream => Body::Stream(Scanner::new()),
            Kind::Whole => Body::Whole(Whole::of(dialect)),
        };
        Self { dialect, body, said: Said::default() }
    }

    /// Looks at the next chunk of the body.
    pub fn observe(&mut self, chunk: &[u8]) -> Seen {
        self.judge(chunk, |_| ())
    }

    /// Looks at the next chunk of the body and tells `each` of every event of the stream that ends in it, in order.
    pub fn judge(&mut self, chunk: &[u8], mut each: impl FnMut(Judged)) -> Seen {
        let Self { dialect, body, said } = self;
        let mut seen = Seen::default();
        match body {
            Body::Stream(scanner) => scanner.scan(chunk, |frame| each(hear(*dialect, said, &frame, &mut seen))),
            Body::Whole(whole) => {
                let begun = said.content;
                whole.observe(chunk, said);
                seen.content_events = u32::from(said.content && !begun);
            }
        }
        seen
    }

    /// The body has ended: looks at an event that lacks its blank line.
    pub fn finish(&mut self) -> Seen {
        self.finish_judging(|_| ())
    }

    /// As [`Observer::finish`], and tells `each` of that event.
    pub fn finish_judging(&mut self, mut each: impl FnMut(Judged)) -> Seen {
        let Self { dialect, body, said } = self;
        let mut seen = Seen::default();
        if let Body::Stream(scanner) = body {
            scanner.finish(|frame| each(hear(*dialect, said, &frame, &mut seen)));
        }
        seen
    }

    /// Bytes at the end of what was observed that belong to an event whose end has not come. Zero for a JSON document.
    pub fn held(&self) -> u64 {
        match &self.body {
            Body::Stream(scanner) => scanner.held(),
            Body::Whole(_) => 0,
        }
    }

    /// True once a piece of the answer was seen: of a stream, an event with content; of a JSON document, any byte.
    pub fn first_content_seen(&self) -> bool {
        self.said.content
    }

    /// The token counts reported so far, the latest value of each; `None` before the first.
    pub fn usage(&self) -> Option<Usage> {
        self.said.counts.usage()
    }

    /// True once the answer said that it is complete: `[DONE]`, `response.completed`, `.incomplete` or `.failed`,
    /// `message_stop`, or the end of the JSON document. Some servers never say so.
    pub fn done(&self) -> bool {
        self.said.done
    }

    /// True once the answer reported an error in its body that is not about the request.
    pub fn error(&self) -> bool {
        self.said.error
    }

    /// True once a stream reported an error that is about the request, as a 4xx is.
    pub fn refused(&self) -> bool {
        self.said.refused
    }

    /// True once a choice ended with `finish_reason` "abort", or a message without a reason.
    pub fn aborted(&self) -> bool {
        self.said.aborted
    }

    /// The response's id, at most 256 bytes.
    pub fn id(&self) -> Option<&str> {
        self.said.id.as_deref()
    }
}

/// Takes what `frame` says into `said`.
fn hear(dialect: Dialect, said: &mut Said, frame: &Frame<'_>, seen: &mut Seen) -> Judged {
    let seek = Seek { content: !said.content, id: said.id.is_none() };
    let event = match frame.data {
        Some(_) => event::read(dialect, frame, seek),
        None => Event::default(),
    };
    seen.events += 1;
    seen.content_events += u32::from(event.content);
    said.content |= event.content;
    if let Some(wire) = &event.usage {
        said.counts.merge(wire);
    }
    said.identify(event.id.as_deref());
    said.done |= event.done;
    said.error |= event.error && !event.refused;
    said.refused |= event.refused;
    said.reasonless = event.reasonless.unwrap_or(said.reasonless);
    let aborted = event.aborted || event.done && said.reasonless;
    said.aborted |= aborted;
    let Event { content, usage_only, error, refused, done, usage, .. } = event;
    let (range, data, usage) = (frame.range.clone(), frame.data.is_some() || !frame.event.is_empty(), usage.is_some());
    Judged { range, data, content, usage, usage_only, error, refused, aborted, done }
}
