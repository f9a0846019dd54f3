//! A replica scripted by the test that records the requests it receives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A received request.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Request line and header lines.
    pub head: String,
    pub body: Vec<u8>,
}

/// A replica driven by a handler. It answers `/v1/models` itself and, by default, `/metrics`; it does not record these
/// requests.
pub struct ScriptedReplica {
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    stopped: Arc<AtomicBool>,
}

/// Whether the connection is kept after the response.
pub type KeepConnection = bool;

type RequestPlayer = dyn Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync;

impl ReceivedRequest {
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    fn is_scrape(&self) -> bool {
        self.method() == "GET" && self.target().ends_with("/metrics")
    }

    /// Returns all values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).first().copied()
    }
}

impl ScriptedReplica {
    /// Starts a replica that serves `models` and has no metrics. `play` handles every other request.
    pub fn start(
        models: &[&str],
        play: impl Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_metrics(models, move |received, to| match received.is_scrape() {
            true => to.write_all(&build_response(404, "application/json", "{}")).is_ok(),
            false => play(received, to),
        })
    }

    /// Starts a replica that serves `models`. `play` handles every other request, including those for metrics.
    pub fn start_with_metrics(
        models: &[&str],
        play: impl Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (received, stopped) = (Arc::<Mutex<Vec<ReceivedRequest>>>::default(), Arc::<AtomicBool>::default());
        let cards: Vec<String> = models.iter().map(|m| format!(r#"{{"id":"{m}","object":"model"}}"#)).collect();
        let list =
            build_response(200, "application/json", &format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(",")));
        let play: Arc<RequestPlayer> = Arc::new(play);
        let (recording, stopping) = (received.clone(), stopped.clone());
        // The thread ends when `ScriptedReplica` is dropped; connection threads end when the router closes them.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let (list, play, received) = (list.clone(), play.clone(), recording.clone());
                thread::spawn(move || serve_connection(stream, &list, &received, &*play));
            }
        });
        Self { addr, received, stopped }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns all requests so far, except those for `/v1/models` and `/metrics`.
    pub fn received_requests(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().iter().filter(|received| !received.is_scrape()).cloned().collect()
    }

    /// Returns the number of requests for its metrics.
    pub fn scrape_count(&self) -> usize {
        self.received.lock().unwrap().iter().filter(|received| received.is_scrape()).count()
    }

    /// Returns the last request.
    pub fn last_request(&self) -> ReceivedRequest {
        self.received_requests().pop().expect("the replica has received a request")
    }
}

impl Drop for ScriptedReplica {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
    }
}

/// Returns a complete response as bytes.
pub fn build_response(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// Answers every request with an empty JSON object.
pub fn respond_ok(_: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    to.write_all(&build_response(200, "application/json", "{}")).is_ok()
}

fn serve_connection(stream: TcpStream, list: &[u8], received: &Mutex<Vec<ReceivedRequest>>, play: &RequestPlayer) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    while let Some(request) = read_request(&mut input) {
        if request.target() == "/v1/models" {
            if output.write_all(list).is_err() {
                return;
            }
            continue;
        }
        received.lock().unwrap().push(request.clone());
        if !play(&request, &mut output) {
            return;
        }
    }
}

fn read_request(input: &mut BufReader<TcpStream>) -> Option<ReceivedRequest> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if input.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut request = ReceivedRequest { head, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |n| n.parse().unwrap());
    request.body.resize(length, 0);
    input.read_exact(&mut request.body).ok()?;
    Some(request)
}
