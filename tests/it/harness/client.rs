//! An HTTP/1.1 client that sends arbitrary bytes and returns responses unchanged.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::TEST_TIMEOUT;

/// A client connection.
pub struct TestClient<S> {
    reader: BufReader<S>,
    framing: ReplyFraming,
}

/// The framing of the current body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyFraming {
    Length(usize),
    Chunked,
    UntilClose,
    Done,
    /// The connection ended before the body did.
    Broken,
}

/// A response, or its head.
#[derive(Debug)]
pub struct HttpResponse {
    pub status: u16,
    /// Status line and header lines, unchanged.
    pub head: String,
    /// The body without chunk framing.
    pub body: Vec<u8>,
    /// Whether the body is complete.
    pub complete: bool,
}

/// Returns a request as bytes; `headers` are whole lines.
pub fn build_request(method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let lower = headers.to_ascii_lowercase();
    if !lower.contains("host:") {
        head += "host: router.test\r\n";
    }
    if !body.is_empty() || method == "POST" {
        if !lower.contains("content-type:") {
            head += "content-type: application/json\r\n";
        }
        head += &format!("content-length: {}\r\n", body.len());
    }
    let head = format!("{head}{headers}\r\n");
    [head.as_bytes(), body].concat()
}

impl TestClient<TcpStream> {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::from_stream(stream)
    }

    /// Returns the port of this end.
    pub fn local_port(&self) -> u16 {
        self.reader.get_ref().local_addr().unwrap().port()
    }

    /// Closes the connection by RST, as a killed process does.
    pub fn reset_connection(self) {
        let stream = self.reader.into_inner();
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Closes the write half by FIN; unread data stays readable.
    pub fn shutdown_write(&self) {
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> TestClient<S> {
    pub fn from_stream(stream: S) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, stream), framing: ReplyFraming::Done }
    }

    /// Returns the stream; bytes that were received and not read are lost.
    pub fn into_stream(self) -> S {
        self.reader.into_inner()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes. Errors if the peer has closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one head; `None` if the connection ends or fails before it is complete.
    pub fn try_read_head(&mut self) -> Option<HttpResponse> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
        let reply = HttpResponse { status, head, body: Vec::new(), complete: true };
        self.framing = match (reply.header("transfer-encoding"), reply.header("content-length")) {
            _ if matches!(status, 100..=199 | 204 | 304) => ReplyFraming::Done,
            (Some("chunked"), None) => ReplyFraming::Chunked,
            (None, Some(length)) => ReplyFraming::Length(length.parse().unwrap()),
            (None, None) => ReplyFraming::UntilClose,
            both => panic!("unclear framing: {both:?}"),
        };
        Some(reply)
    }

    pub fn read_head(&mut self) -> HttpResponse {
        self.try_read_head().expect("a complete response head")
    }

    /// Reads the response to a HEAD request.
    pub fn read_response_to_head(&mut self) -> HttpResponse {
        let reply = self.read_head();
        self.framing = ReplyFraming::Done;
        reply
    }

    /// Reads the next piece of the body: a chunk, or the bytes available. `None` at its end or after a broken
    /// connection.
    pub fn read_piece(&mut self) -> Option<Vec<u8>> {
        let read = match self.framing {
            ReplyFraming::Done | ReplyFraming::Broken | ReplyFraming::Length(0) => Ok(None),
            ReplyFraming::Chunked => self.read_chunk(),
            ReplyFraming::Length(left) => self.read_available(left).and_then(|piece| {
                self.framing = ReplyFraming::Length(left - piece.len());
                if piece.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(piece)) }
            }),
            ReplyFraming::UntilClose => {
                self.read_available(usize::MAX).map(|piece| Some(piece).filter(|piece| !piece.is_empty()))
            }
        };
        read.unwrap_or_else(|error| {
            assert!(error.kind() != io::ErrorKind::WouldBlock, "no data within {TEST_TIMEOUT:?}");
            self.framing = ReplyFraming::Broken;
            None
        })
    }

    /// Reads one response to its end.
    pub fn read_response(&mut self) -> HttpResponse {
        let mut reply = self.read_head();
        reply.body = self.read_remaining_body();
        reply.complete = self.framing != ReplyFraming::Broken;
        reply
    }

    /// Reads the rest of the current body.
    pub fn read_remaining_body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.read_piece() {
            body.extend_from_slice(&piece);
        }
        body
    }

    /// Returns whether the last body was cut.
    pub fn is_broken(&self) -> bool {
        self.framing == ReplyFraming::Broken
    }

    /// Waits for the peer to close; returns whether it sent no further byte.
    pub fn wait_for_close(&mut self) -> bool {
        match self.reader.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    fn read_available(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = self.reader.fill_buf()?;
        let piece = bytes[..bytes.len().min(limit)].to_vec();
        self.reader.consume(piece.len());
        Ok(piece)
    }

    fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece)?;
        assert!(piece.ends_with(b"\r\n"), "the chunk has the announced size");
        piece.truncate(size);
        if size == 0 {
            self.framing = ReplyFraming::Done;
        }
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

impl HttpResponse {
    /// Returns the value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, self.text()))
    }

    /// Returns the `error` member of OpenAI's error object; checks its shape.
    pub fn openai_error(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.head);
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string(), "{error}");
        for key in ["param", "code"] {
            assert!(error.get(key).is_some_and(|v| v.is_null() || v.is_string()), "{key}: {error}");
        }
        error
    }
}
