//! Echo replicas for both sides: they record every request of the comparison in the order of arrival.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::harness::scripted::ReceivedRequest;
use crate::harness::unused_addr;

/// The header that numbers a request of the comparison. Requests without it, such as probes, are not recorded.
pub(crate) const NUMBER_HEADER: &str = "X-Ask";
/// The header with the words for the replica: `slow=1500;status=500`.
pub(crate) const PLAY_HEADER: &str = "X-Play";

/// The ports of replicas in configurations. The last two have no listener.
const REPLICA_PORTS: std::ops::RangeInclusive<u16> = 9001..=9009;
const DEAD_PORTS: [u16; 2] = [9008, 9009];

/// A request and the replica that it reached.
#[derive(Clone, Debug)]
pub(crate) struct AskedReplica {
    /// The replica's port in the configuration.
    pub(crate) port: u16,
    pub(crate) request: ReceivedRequest,
}

/// The replicas of all configurations. They run until the test process ends.
pub(crate) struct EchoReplicas {
    /// By the port in the configuration.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    /// The folder of the Unix sockets; each is called by its replica's TCP port: `31234.sock`.
    pub(crate) folder: PathBuf,
    asked: Arc<Mutex<Vec<AskedReplica>>>,
}

impl EchoReplicas {
    /// Starts the replicas, each on a TCP port and on a Unix socket in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let asked = Arc::<Mutex<Vec<AskedReplica>>>::default();
        let mut addresses = BTreeMap::new();
        for port in REPLICA_PORTS {
            if DEAD_PORTS.contains(&port) {
                addresses.insert(port, unused_addr());
                continue;
            }
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            addresses.insert(port, addr);
            let recording = asked.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let recording = recording.clone();
                    stream.set_nodelay(true).unwrap();
                    thread::spawn(move || serve_connection(stream.try_clone().unwrap(), stream, port, &recording));
                }
            });
            let path = socket_path(folder, addr.port());
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(path).unwrap();
            let recording = asked.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let recording = recording.clone();
                    thread::spawn(move || serve_connection(stream.try_clone().unwrap(), stream, port, &recording));
                }
            });
        }
        Self { addresses, folder: folder.to_owned(), asked }
    }

    /// Returns the requests since the last call, in the order of arrival.
    pub(crate) fn take_asked(&self) -> Vec<AskedReplica> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn socket_path(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("{port}.sock"))
}

fn serve_connection(input: impl Read, mut output: impl Write, port: u16, asked: &Mutex<Vec<AskedReplica>>) {
    let mut input = BufReader::new(input);
    while let Some(request) = read_request(&mut input) {
        if request.header(NUMBER_HEADER).is_some() {
            asked.lock().unwrap().push(AskedReplica { port, request: request.clone() });
        }
        let Some(answer) = build_answer(&request, port) else { return };
        // nginx speaks HTTP/1.0 and closes by default.
        let keep = request.head.contains("HTTP/1.1") && request.header("connection") != Some("close");
        if output.write_all(&answer).is_err() || !keep {
            return;
        }
    }
}

/// Returns the answer that the request asks for; `None` closes the connection.
fn build_answer(request: &ReceivedRequest, port: u16) -> Option<Vec<u8>> {
    let (mut status, mut kind) = (200, "application/json");
    let mut body = format!("{{\"replica\":{port}}}\n");
    let mut headers = format!("X-Replica: {port}\r\nX-Powered-By: echo\r\n");
    for word in request.header(PLAY_HEADER).unwrap_or_default().split(';').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "slow" => thread::sleep(Duration::from_millis(value.parse().unwrap())),
            "status" => status = value.parse().unwrap(),
            "close" => return None,
            "big" => body = "x".repeat(value.parse().unwrap()),
            "type" => kind = value,
            "header" => headers += &format!("{}\r\n", value.replacen(':', ": ", 1)),
            other => panic!("the replica has no word {other}"),
        }
    }
    let length = body.len();
    let has_body = request.method() != "HEAD" && !matches!(status, 204 | 304);
    let framing = if status == 204 { String::new() } else { format!("Content-Length: {length}\r\n") };
    let body = if has_body { body } else { String::new() };
    Some(format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}{framing}\r\n{body}").into_bytes())
}

fn read_request(input: &mut impl BufRead) -> Option<ReceivedRequest> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if input.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    // Latin-1, so that any byte is kept.
    let head = head.into_iter().map(char::from).collect();
    let mut request = ReceivedRequest { head, body: Vec::new() };
    if request.header("transfer-encoding").is_some() {
        read_chunks(input, &mut request.body)?;
    } else {
        let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        request.body.resize(length, 0);
        input.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

fn read_chunks(input: &mut impl BufRead, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let begin = body.len();
        body.resize(begin + size + 2, 0);
        input.read_exact(&mut body[begin..]).ok()?;
        body.truncate(begin + size);
        if size == 0 {
            return Some(());
        }
    }
}
