//! Replicas of few words, and routers before them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::control::{self, Nginx};
use crate::harness::client::Client;
use crate::harness::client::Reply;
use crate::harness::scripted::{Keep, Scripted, friendly, whole};
use crate::harness::{ask, chat};
use tokenweir::clock::Clock;
use tokenweir::units::Moment;

pub const CHAT: &str = "/v1/chat/completions";
pub const JSON: &str = "application/json";
pub const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
pub const DONE: &str = "data: [DONE]\n\n";

/// A body or a piece of one, framed.
pub fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A router, or what stands in its place, on ports of its own.
pub struct Router {
    pub addr: SocketAddr,
    /// Where it speaks HTTP/2 without TLS.
    pub h2: SocketAddr,
    served: Served,
}

enum Served {
    Router(Box<crate::harness::Router>),
    /// Held until the test is over.
    Nginx {
        _nginx: Nginx,
    },
}

impl Router {
    /// Starts with a configuration as text; does not wait for anything.
    pub fn start(text: &str) -> Self {
        if control::is_on() {
            let nginx = Nginx::start(text);
            return Self { addr: nginx.addr, h2: nginx.h2, served: Served::Nginx { _nginx: nginx } };
        }
        let router = crate::harness::Router::start(text);
        Self { addr: router.addr, h2: router.addr, served: Served::Router(Box::new(router)) }
    }

    /// Waits until every replica has said which models it serves.
    pub fn ready(self) -> Self {
        let served = match self.served {
            Served::Router(router) => Served::Router(Box::new(router.ready())),
            nginx @ Served::Nginx { .. } => nginx,
        };
        Self { served, ..self }
    }

    /// Where it is administered.
    pub fn admin(&self) -> SocketAddr {
        match &self.served {
            Served::Router(router) => router.admin,
            Served::Nginx { .. } => control::beyond("an admin listener"),
        }
    }

    pub fn client(&self) -> Client<TcpStream> {
        Client::connect(self.addr)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Reply {
        ask(self.addr, method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.ask("POST", path, "", body)
    }

    /// The sum of a metric's series whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        match &self.served {
            Served::Router(router) => router.metric(name, labels),
            Served::Nginx { .. } => control::beyond("metrics"),
        }
    }
}

/// A router over these replicas, in turn, and with more keys.
pub fn over<'a>(replicas: impl IntoIterator<Item = &'a Scripted>, more: &str) -> Router {
    let urls: Vec<String> = replicas.into_iter().map(Scripted::url).collect();
    Router::start(&format!("policy = \"round_robin\"\nreplicas = {urls:?}\n{more}")).ready()
}

pub fn good() -> Scripted {
    Scripted::start(&["m"], friendly)
}

/// A replica that says the same to whoever comes.
pub fn saying(status: u16, body: &'static str) -> Scripted {
    Scripted::start(&["m"], move |_, to| to.write_all(&whole(status, JSON, body)).is_ok())
}

/// A replica that is well until it is made sick, when it answers 500.
pub fn moody() -> (Scripted, Arc<AtomicBool>) {
    let sick = Arc::new(AtomicBool::new(true));
    let mood = sick.clone();
    let replica = Scripted::start(&["m"], move |_, to| {
        let status = if mood.load(Ordering::SeqCst) { 500 } else { 200 };
        to.write_all(&whole(status, JSON, "{}")).is_ok()
    });
    (replica, sick)
}

pub fn post(router: &Router) -> Reply {
    router.post(CHAT, chat("m", 2, false))
}

pub fn attempts(router: &Router, outcome: &str) -> f64 {
    router.metric("tokenweir_attempts_total", &[&format!("outcome=\"{outcome}\"")])
}

/// Replicas that are ejected now.
pub fn ejected(router: &Router) -> f64 {
    router.metric("tokenweir_ejected", &[])
}

/// Reads until the router lets go.
pub fn until_closed(to: &mut TcpStream) -> Keep {
    while to.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
    false
}

/// A stopwatch.
pub struct Watch(Clock);

impl Watch {
    pub fn start() -> Self {
        Self(Clock::start())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.now().since(Moment::ZERO)
    }
}

pub fn pause(millis: u64) {
    sleep(Duration::from_millis(millis));
}

/// A port that takes no more connections: what comes is dropped, not refused, until somebody accepts.
pub struct Full {
    pub listener: TcpListener,
    pub addr: SocketAddr,
    waiting: Vec<socket2::Socket>,
}

impl Full {
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
        pause(100);
        Self { listener, addr, waiting }
    }

    /// Lets in whoever waits, and from now on everybody; each is told `answer`.
    pub fn open(self, answer: &'static [u8]) {
        drop(self.waiting);
        std::thread::spawn(move || {
            for stream in self.listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    // What filled the queue has closed, and says nothing.
                    if stream.read(&mut [0; 64 * 1024]).is_ok_and(|read| read > 0) {
                        drop(stream.write_all(answer));
                    }
                });
            }
        });
    }
}
