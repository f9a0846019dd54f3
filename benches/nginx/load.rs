//! The load: closed-loop requests on keep-alive connections, and streams.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BytesMut};
use memchr::{memchr_iter, memmem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Returns a small chat request, about 300 bytes of body.
pub(crate) fn small_body() -> String {
    let system = "You are a helpful assistant who answers in one or two short sentences and never makes things up.";
    let user = "Where do rivers go, and what do they take along on their way down from the mountains?";
    format!(
        r#"{{"model":"m","messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{user}"}}],"max_tokens":64,"temperature":0.7}}"#
    )
}

/// Returns the same request as a stream.
pub(crate) fn streaming_body() -> String {
    small_body().replacen(r#""model":"m""#, r#""model":"m","stream":true"#, 1)
}

/// Returns a chat request with a prompt of 1 MiB.
pub(crate) fn long_body() -> String {
    let text = "The quick brown fox jumps over the lazy dog, and the river runs on. ";
    let text = text.repeat(1024 * 1024 / text.len() + 1);
    format!(r#"{{"model":"m","max_tokens":64,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

/// Sends `count` requests over `connections` connections, one at a time on each. Errors at the first response that is
/// not a 200.
pub(crate) async fn send_requests(port: u16, connections: u64, count: u64, body: &str) -> io::Result<()> {
    let request: Arc<[u8]> = build_request(body).into();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = Arc::clone(&request);
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let mut buffer = BytesMut::with_capacity(8 * 1024);
            for _ in 0..count / connections {
                stream.write_all(&request).await?;
                read_response(&mut stream, &mut buffer).await?;
            }
            io::Result::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Open streams, closed on drop.
pub(crate) struct OpenStreams {
    tasks: JoinSet<io::Result<()>>,
    events: Arc<AtomicU64>,
    flowing: Arc<AtomicU64>,
}

impl OpenStreams {
    /// Opens `count` streams.
    pub(crate) fn open(port: u16, count: u64) -> Self {
        let request: Arc<[u8]> = build_request(&streaming_body()).into();
        let mut streams = Self { tasks: JoinSet::new(), events: Arc::default(), flowing: Arc::default() };
        for _ in 0..count {
            let (events, flowing) = (Arc::clone(&streams.events), Arc::clone(&streams.flowing));
            let request = Arc::clone(&request);
            streams.tasks.spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.write_all(&request).await?;
                count_events(&mut stream, &events, &flowing).await
            });
        }
        streams
    }

    /// Returns the number of events received on all streams so far.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Returns the number of streams that have received an event.
    pub(crate) fn flowing(&self) -> u64 {
        self.flowing.load(Ordering::Relaxed)
    }

    /// Checks that no stream has ended. Errors if one has; the origin's streams are endless.
    pub(crate) fn check_open(&mut self) -> io::Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err(io::Error::other("a stream ended")),
        }
    }
}

/// Returns the value of `content-length` in `head`.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    header_value(head, "content-length")?.parse().ok()
}

fn header_value<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, rest) = std::str::from_utf8(line).ok()?.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| rest.trim())
    })
}

fn build_request(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: application/json\r\n\
         authorization: Bearer unused\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Reads the head of a response, which must be a 200, and returns the body's length.
async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    let end = loop {
        if let Some(at) = memmem::find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        fill_buffer(stream, buffer).await?;
    };
    if !buffer.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(buffer).into_owned()));
    }
    Ok(end)
}

/// Reads one complete response and discards it.
async fn read_response(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    let end = read_head(stream, buffer).await?;
    match content_length(&buffer[..end]) {
        Some(length) => {
            while buffer.len() < end + length {
                fill_buffer(stream, buffer).await?;
            }
            buffer.advance(end + length);
        }
        None => {
            while !buffer.ends_with(b"\r\n0\r\n\r\n") {
                fill_buffer(stream, buffer).await?;
            }
            buffer.clear();
        }
    }
    Ok(())
}

/// Reads a stream until it ends and counts its events by their blank lines.
async fn count_events(stream: &mut TcpStream, events: &AtomicU64, flowing: &AtomicU64) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    let end = read_head(stream, &mut buffer).await?;
    buffer.advance(end);
    let mut after_newline = false;
    let mut seen = 0;
    loop {
        let mut found = 0;
        for at in memchr_iter(b'\n', &buffer) {
            let blank = if at == 0 { after_newline } else { buffer[at - 1] == b'\n' };
            found += u64::from(blank);
        }
        after_newline = buffer.last().map_or(after_newline, |last| *last == b'\n');
        if seen == 0 && found > 0 {
            flowing.fetch_add(1, Ordering::Relaxed);
        }
        seen += found;
        events.fetch_add(found, Ordering::Relaxed);
        buffer.clear();
        fill_buffer(stream, &mut buffer).await?;
    }
}

async fn fill_buffer(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy closed the connection")),
        _ => Ok(()),
    }
}
