//! Test replicas, and routers in front of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::control::{self, ControlNginx};
use crate::harness::client::HttpResponse;
use crate::harness::client::TestClient;
use crate::harness::scripted::{KeepConnection, ScriptedReplica, build_response, respond_ok};
use crate::harness::{chat_body, send_request};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

pub const CHAT_PATH: &str = "/v1/chat/completions";
pub const JSON_CONTENT_TYPE: &str = "application/json";
pub const CONTENT_EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
pub const DONE_EVENT: &str = "data: [DONE]\n\n";

/// Returns a chunk of a chunked body.
pub fn encode_chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A router, or the nginx that replaces it, on free ports.
pub struct StageRouter {
    pub addr: SocketAddr,
    /// Its address for HTTP/2 without TLS.
    pub h2_addr: SocketAddr,
    backend: StageBackend,
}

enum StageBackend {
    Router(Box<crate::harness::TestRouter>),
    /// Held until the test is over.
    Nginx {
        _nginx: ControlNginx,
    },
}

impl StageRouter {
    /// Starts a router with this configuration text; does not wait until it is ready.
    pub fn start(text: &str) -> Self {
        if control::is_enabled() {
            let nginx = ControlNginx::start(text);
            return Self { addr: nginx.addr, h2_addr: nginx.h2_addr, backend: StageBackend::Nginx { _nginx: nginx } };
        }
        let router = crate::harness::TestRouter::start(text);
        Self { addr: router.addr, h2_addr: router.addr, backend: StageBackend::Router(Box::new(router)) }
    }

    /// Waits until every replica has listed its models.
    pub fn wait_until_ready(self) -> Self {
        let served = match self.backend {
            StageBackend::Router(router) => StageBackend::Router(Box::new(router.wait_until_ready())),
            nginx @ StageBackend::Nginx { .. } => nginx,
        };
        Self { backend: served, ..self }
    }

    /// Returns the admin listener's address.
    pub fn admin_addr(&self) -> SocketAddr {
        match &self.backend {
            StageBackend::Router(router) => router.admin_addr,
            StageBackend::Nginx { .. } => control::panic_beyond_nginx("an admin listener"),
        }
    }

    pub fn connect(&self) -> TestClient<TcpStream> {
        TestClient::connect(self.addr)
    }

    /// Sends one request on its own connection and returns the response.
    pub fn send_request(&self, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> HttpResponse {
        send_request(self.addr, method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> HttpResponse {
        self.send_request("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> HttpResponse {
        self.send_request("POST", path, "", body)
    }

    /// Returns the sum of a metric's series whose labels contain all of `labels`.
    pub fn sum_metric(&self, name: &str, labels: &[&str]) -> f64 {
        match &self.backend {
            StageBackend::Router(router) => router.sum_metric(name, labels),
            StageBackend::Nginx { .. } => control::panic_beyond_nginx("metrics"),
        }
    }
}

/// Starts a router over these replicas under round robin, with additional keys.
pub fn start_router<'a>(replicas: impl IntoIterator<Item = &'a ScriptedReplica>, more: &str) -> StageRouter {
    let urls: Vec<String> = replicas.into_iter().map(ScriptedReplica::url).collect();
    StageRouter::start(&format!("policy = \"round_robin\"\nreplicas = {urls:?}\n{more}")).wait_until_ready()
}

pub fn start_good_replica() -> ScriptedReplica {
    ScriptedReplica::start(&["m"], respond_ok)
}

/// Starts a replica that answers every request alike.
pub fn start_fixed_replica(status: u16, body: &'static str) -> ScriptedReplica {
    ScriptedReplica::start(&["m"], move |_, to| to.write_all(&build_response(status, JSON_CONTENT_TYPE, body)).is_ok())
}

/// Starts a replica that is healthy until the flag is set, and then answers 500.
pub fn start_sick_replica() -> (ScriptedReplica, Arc<AtomicBool>) {
    let sick = Arc::new(AtomicBool::new(true));
    let mood = sick.clone();
    let replica = ScriptedReplica::start(&["m"], move |_, to| {
        let status = if mood.load(Ordering::SeqCst) { 500 } else { 200 };
        to.write_all(&build_response(status, JSON_CONTENT_TYPE, "{}")).is_ok()
    });
    (replica, sick)
}

pub fn post_chat(router: &StageRouter) -> HttpResponse {
    router.post(CHAT_PATH, chat_body("m", 2, false))
}

pub fn attempt_count(router: &StageRouter, outcome: &str) -> f64 {
    router.sum_metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

/// Returns the number of ejected replicas.
pub fn ejected_count(router: &StageRouter) -> f64 {
    router.sum_metric("tokenweir_ejected", &[])
}

/// Reads until the router closes.
pub fn read_until_closed(to: &mut TcpStream) -> KeepConnection {
    while to.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    false
}

/// A stopwatch.
pub struct Stopwatch(Clock);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Clock::start())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.now().since(Moment::ZERO)
    }
}

pub fn sleep_millis(millis: u64) {
    sleep(Duration::from_millis(millis));
}

/// A port that drops new connections instead of refusing them, until `start_accepting`.
pub struct FullPort {
    pub listener: TcpListener,
    pub addr: SocketAddr,
    queued_sockets: Vec<socket2::Socket>,
}

impl FullPort {
    pub fn start() -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().unwrap();
        let fill = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            drop(socket.connect(&addr.into()));
            socket
        };
        let waiting = (0..4).map(|_| fill()).collect();
        sleep_millis(100);
        Self { listener, addr, queued_sockets: waiting }
    }

    /// Accepts the waiting and all later connections; sends `answer` on each.
    pub fn start_accepting(self, answer: &'static [u8]) {
        drop(self.queued_sockets);
        std::thread::spawn(move || {
            for stream in self.listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    // The sockets that filled the queue are closed and send nothing.
                    if stream.read(&mut [0; 64 * 1024]).is_ok_and(|read| read > 0) {
                        drop(stream.write_all(answer));
                    }
                });
            }
        });
    }
}
