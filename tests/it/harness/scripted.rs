//! A replica that does to its socket what a test tells it, and remembers what it heard.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Request line and header lines.
    pub head: String,
    pub body: Vec<u8>,
}

/// A raw replica; it answers `/v1/models` and, unless told otherwise, `/metrics` by itself and does not remember that.
pub struct ScriptedReplica {
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    stopped: Arc<AtomicBool>,
}

/// Whether the connection is kept after an answer.
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

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(this, _)| this.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).first().copied()
    }
}

impl ScriptedReplica {
    /// Serves `models` and has no metrics; every other request is `play`ed.
    pub fn start(
        models: &[&str],
        play: impl Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_metrics(models, move |heard, to| match heard.is_scrape() {
            true => to.write_all(&build_response(404, "application/json", "{}")).is_ok(),
            false => play(heard, to),
        })
    }

    /// Serves `models`; every other request is `play`ed, those for its metrics included.
    pub fn start_with_metrics(
        models: &[&str],
        play: impl Fn(&ReceivedRequest, &mut TcpStream) -> KeepConnection + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (heard, stopped) = (Arc::<Mutex<Vec<ReceivedRequest>>>::default(), Arc::<AtomicBool>::default());
        let cards: Vec<String> = models.iter().map(|m| format!(r#"{{"id":"{m}","object":"model"}}"#)).collect();
        let list =
            build_response(200, "application/json", &format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(",")));
        let play: Arc<RequestPlayer> = Arc::new(play);
        let (hearing, ending) = (heard.clone(), stopped.clone());
        // Ends with the drop of `ScriptedReplica`; its connections' threads end when the router closes them.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                let (list, play, heard) = (list.clone(), play.clone(), hearing.clone());
                thread::spawn(move || serve_connection(stream, &list, &heard, &*play));
            }
        });
        Self { addr, received: heard, stopped }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All requests so far, `/v1/models` and `/metrics` aside.
    pub fn received_requests(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().iter().filter(|heard| !heard.is_scrape()).cloned().collect()
    }

    /// How often its metrics were asked for.
    pub fn scrape_count(&self) -> usize {
        self.received.lock().unwrap().iter().filter(|heard| heard.is_scrape()).count()
    }

    /// The last request.
    pub fn last_request(&self) -> ReceivedRequest {
        self.received_requests().pop().expect("the replica has heard a request")
    }
}

impl Drop for ScriptedReplica {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
    }
}

/// A whole answer as bytes.
pub fn build_response(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// Answers every request with the same small JSON.
pub fn respond_ok(_: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    to.write_all(&build_response(200, "application/json", "{}")).is_ok()
}

fn serve_connection(stream: TcpStream, list: &[u8], heard: &Mutex<Vec<ReceivedRequest>>, play: &RequestPlayer) {
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
        heard.lock().unwrap().push(request.clone());
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
