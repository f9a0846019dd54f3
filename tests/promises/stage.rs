//! Replicas of few words, and routers before them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

pub use crate::harness::Router;
use crate::harness::chat;
use crate::harness::client::Reply;
use crate::harness::scripted::{Keep, Scripted, friendly, whole};
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
