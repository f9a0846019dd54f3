//! Replicas that answer with their port, can be closed and reopened, and can hold requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::harness::{TEST_TIMEOUT, wait_until};

/// One replica.
pub(crate) struct PortOrigin {
    pub(crate) port: u16,
    listener: Option<OriginListener>,
    held_requests: Arc<HeldRequests>,
}

struct OriginListener {
    closing: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accept_thread: thread::JoinHandle<()>,
}

/// Requests for `/hold/NAME`: the ports they reached, until they are released.
#[derive(Default)]
pub(crate) struct HeldRequests {
    port_by_name: Mutex<BTreeMap<String, u16>>,
    released: Condvar,
}

impl PortOrigin {
    pub(crate) fn start(held: &Arc<HeldRequests>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { port, listener: Some(OriginListener::start(listener, port, held)), held_requests: held.clone() }
    }

    /// Refuses connections from now on and closes open ones.
    pub(crate) fn close(&mut self) {
        let Some(open) = self.listener.take() else { return };
        open.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        open.accept_thread.join().unwrap();
        for link in open.connections.lock().unwrap().drain(..) {
            // A closed connection cannot be shut down again.
            let _ = link.shutdown(Shutdown::Both);
        }
        assert!(TcpStream::connect(("127.0.0.1", self.port)).is_err(), "the port refuses connections");
    }

    /// Accepts connections again.
    pub(crate) fn reopen(&mut self) {
        if self.listener.is_none() {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
            self.listener = Some(OriginListener::start(listener, self.port, &self.held_requests));
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.listener.is_some()
    }
}

impl Drop for PortOrigin {
    fn drop(&mut self) {
        self.close();
    }
}

impl OriginListener {
    fn start(listener: TcpListener, port: u16, held: &Arc<HeldRequests>) -> Self {
        let (closing, links) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (ending, kept, held) = (closing.clone(), links.clone(), held.clone());
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let held = held.clone();
                // The thread ends when the proxy or `close` ends its connection.
                thread::spawn(move || serve_connection(stream, port, &held));
            }
        });
        Self { closing, connections: links, accept_thread: accepting }
    }
}

impl HeldRequests {
    /// Waits for the request called `name`; returns the port it reached.
    pub(crate) fn wait_for_arrival(&self, name: &str) -> u16 {
        wait_until("a held request arrives", || self.port_by_name.lock().unwrap().contains_key(name));
        self.port_by_name.lock().unwrap()[name]
    }

    /// Answers the request called `name`.
    pub(crate) fn release_request(&self, name: &str) {
        self.port_by_name.lock().unwrap().remove(name);
        self.released.notify_all();
    }

    fn hold_request(&self, name: &str, port: u16) {
        let mut at = self.port_by_name.lock().unwrap();
        at.insert(name.to_owned(), port);
        drop(self.released.wait_timeout_while(at, TEST_TIMEOUT, |at| at.contains_key(name)));
    }
}

fn serve_connection(stream: TcpStream, port: u16, held: &HeldRequests) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n{port:05}");
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match input.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        if let Some(name) = head.split(' ').nth(1).and_then(|target| target.strip_prefix("/hold/")) {
            held.hold_request(name, port);
        }
        if output.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
