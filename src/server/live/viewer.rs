//! A viewer of the feed, and what it gets as `text/event-stream`.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use futures_util::stream::{self, Stream, StreamExt as _};

use super::feed::LiveFrame;
use super::message::build_meta;
use super::recent_requests::recent_rows;
use crate::server::AppState;

/// Returns the events of a new viewer: `meta` and `history`, then `second` each second, with `meta` before it if that has
/// changed. It does not end.
pub(in crate::server) fn events(app: &AppState) -> impl Stream<Item = Result<String, Infallible>> + use<> {
    let frames = app.live.frames.subscribe();
    let requests = recent_rows(app, app.clock.now());
    let history = app.live.history.lock().unwrap_or_else(PoisonError::into_inner).to_json(&requests);
    let meta: Arc<str> = build_meta(app).into();
    let first = format!("retry: 1000\n{}{}", event("meta", &meta), event("history", &history));
    let seconds = stream::unfold((frames, meta), |(mut frames, meta)| async move {
        // The sender lives as long as the router.
        frames.changed().await.ok()?;
        let frame: Arc<LiveFrame> = frames.borrow_and_update().clone();
        let mut text = String::new();
        if *frame.meta != *meta {
            text += &event("meta", &frame.meta);
        }
        text += &event("second", &frame.second);
        Some((text, (frames, frame.meta.clone())))
    });
    stream::once(std::future::ready(first)).chain(seconds).map(Ok)
}

/// Returns an event. JSON has no line end of its own.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}
