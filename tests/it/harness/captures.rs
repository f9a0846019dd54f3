//! Captured streams of real servers, and a replica handler that plays them.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use super::scripted::ReceivedRequest;

/// The response head in front of a played stream.
pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// Returns the captured streams by name. Each holds the bytes after the head, with its chunk framing.
pub fn load_captures() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["vllm-0.32.0", "transformers-serve-5.19.0"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures").join(folder);
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase();
            if !head.contains("content-type: text/event-stream") || !head.contains("transfer-encoding: chunked") {
                continue;
            }
            let name = entry.path().file_name().unwrap().to_string_lossy().into_owned();
            let body = bytes[at + 4..].to_vec();
            found.push((name.clone(), if name.contains(".cut.") { rejoin_events(&body) } else { body }));
        }
    }
    found.sort();
    assert!(found.len() >= 15, "{}", found.len());
    found
}

/// Returns a stream whose middle was cut out as chunks of one event each.
fn rejoin_events(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let events = text.lines().filter(|line| line.starts_with("data: ")).map(|line| format!("{line}\n\n"));
    let chunk = |event: String| format!("{:x}\r\n{event}\r\n", event.len());
    events.map(chunk).chain(["0\r\n\r\n".to_owned()]).collect::<String>().into_bytes()
}

/// Returns a body without its chunk framing.
pub fn decode_chunks(mut wire: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let at = wire.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&wire[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&wire[at + 2..at + 2 + size]);
        wire = &wire[at + 4 + size..];
    }
}

/// Returns the part of a stream that may reach a client, and whether that is all of it. The part ends before the
/// replica's abort event.
pub fn deliverable_part(stream: &[u8]) -> (&[u8], bool) {
    let end = stream
        .windows(23)
        .position(|w| w == b"\"finish_reason\":\"abort\"")
        .map(|abort| stream[..abort].windows(2).rposition(|w| w == b"\n\n").map_or(0, |end| end + 2));
    (&stream[..end.unwrap_or(stream.len())], end.is_none())
}

/// Plays stream N cut at byte M for the path's query `N-M`.
pub fn capture_player(streams: Arc<Vec<(String, Vec<u8>)>>) -> impl Fn(&ReceivedRequest, &mut TcpStream) -> bool {
    move |received, to| {
        let (stream, cut) = received.target().split_once('?').unwrap().1.split_once('-').unwrap();
        let (first, second) = streams[stream.parse::<usize>().unwrap()].1.split_at(cut.parse().unwrap());
        to.write_all(&[STREAM_HEAD.as_bytes(), first].concat()).and_then(|()| to.write_all(second)).is_ok()
    }
}
