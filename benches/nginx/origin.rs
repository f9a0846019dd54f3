//! The origin behind both proxies: two ports that respond like a model server, with as few system calls as possible.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The interval between two events of a stream.
pub(crate) const EVENT_INTERVAL: Duration = Duration::from_millis(20);
/// The number of body bytes searched for `"stream":true`, which the load puts first.
const SEARCHED_BYTES: usize = 512;

const MODELS_BODY: &str = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;
const CHAT_BODY: &str = concat!(
    r#"{"id":"chatcmpl-8348bd52ac925a3d","object":"chat.completion","created":1795362331,"model":"m","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"A river is water that follows the lowest way to the sea, and takes the "#,
    r#"mountains along with it, grain by grain, for as long as it has time.","refusal":null,"tool_calls":[]},"#,
    r#""logprobs":null,"finish_reason":"stop","stop_reason":null}],"service_tier":null,"#,
    r#""usage":{"prompt_tokens":43,"total_tokens":73,"completion_tokens":30,"prompt_tokens_details":null},"#,
    r#""prompt_logprobs":null,"kv_transfer_params":null}"#
);
const STREAM_EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-8348bd52ac925a3d","object":"chat.completion.chunk","created":1795362331,"model":"m","#,
    r#""choices":[{"index":0,"delta":{"content":" river"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
    "\n\n"
);

/// The prepared responses.
struct CannedResponses {
    models: Vec<u8>,
    chat: Vec<u8>,
    stream_head: Vec<u8>,
    event: Vec<u8>,
    not_found: Vec<u8>,
}

/// The kind of a request.
enum OriginRequest {
    Models,
    Chat,
    Stream,
    Unknown,
}

/// Starts the origin on its own thread, which lives as long as the process. Returns its two ports.
pub(crate) fn start_origin() -> io::Result<[u16; 2]> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("origin".into()).spawn(move || {
        let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                let listeners =
                    [TcpListener::bind(("127.0.0.1", 0)).await?, TcpListener::bind(("127.0.0.1", 0)).await?];
                let _ = sender.send([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()]);
                let answers = Arc::new(CannedResponses::new());
                let [one, two] = listeners;
                tokio::try_join!(accept_connections(one, Arc::clone(&answers)), accept_connections(two, answers))
                    .map(drop)
            })
        });
        if let Err(error) = ran {
            eprintln!("the origin stopped: {error}");
        }
    })?;
    receiver.recv().map_err(|_| io::Error::other("the origin did not start"))
}

impl CannedResponses {
    fn new() -> Self {
        let json = |status: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
                .into()
        };
        Self {
            models: json("200 OK", MODELS_BODY),
            chat: json("200 OK", CHAT_BODY),
            not_found: json("404 Not Found", r#"{"detail":"Not Found"}"#),
            stream_head: "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                          transfer-encoding: chunked\r\n\r\n"
                .into(),
            event: format!("{:x}\r\n{STREAM_EVENT}\r\n", STREAM_EVENT.len()).into(),
        }
    }
}

async fn accept_connections(listener: TcpListener, answers: Arc<CannedResponses>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = Arc::clone(&answers);
        // A connection may end at any time, because its proxy closes it.
        tokio::spawn(async move { serve_connection(stream, &answers).await });
    }
}

async fn serve_connection(mut stream: TcpStream, answers: &CannedResponses) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        match request {
            OriginRequest::Models => stream.write_all(&answers.models).await?,
            OriginRequest::Chat => stream.write_all(&answers.chat).await?,
            OriginRequest::Unknown => stream.write_all(&answers.not_found).await?,
            OriginRequest::Stream => return send_endless_events(stream, answers).await,
        }
    }
    Ok(())
}

/// Sends events until the client disconnects.
async fn send_endless_events(mut stream: TcpStream, answers: &CannedResponses) -> io::Result<()> {
    stream.write_all(&answers.stream_head).await?;
    let mut ticks = interval_at(Instant::now() + EVENT_INTERVAL, EVENT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        stream.write_all(&answers.event).await?;
    }
}

/// Reads one complete request. `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<OriginRequest>> {
    let head = loop {
        if let Some(at) = memmem::find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let mut left = super::load::content_length(&buffer[..head]).unwrap_or(0);
    let post = buffer.starts_with(b"POST ");
    let models = buffer.starts_with(b"GET /v1/models") || buffer.starts_with(b"GET /health");
    buffer.advance(head);
    let mut streamed = false;
    let mut searched = !post;
    while left > 0 {
        if buffer.is_empty() && stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
        if !searched && (buffer.len() >= SEARCHED_BYTES || buffer.len() >= left) {
            searched = true;
            streamed = memmem::find(&buffer[..buffer.len().min(SEARCHED_BYTES)], b"\"stream\":true").is_some();
        }
        if !searched {
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
            continue;
        }
        let taken = left.min(buffer.len());
        buffer.advance(taken);
        left -= taken;
    }
    Ok(Some(match (post, models, streamed) {
        (true, _, true) => OriginRequest::Stream,
        (true, _, false) => OriginRequest::Chat,
        (false, true, _) => OriginRequest::Models,
        (false, false, _) => OriginRequest::Unknown,
    }))
}
