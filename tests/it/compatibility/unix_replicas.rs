//! Replicas behind a Unix socket, as servers on the router's own machine have it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use crate::harness::scripted::{KeepConnection, ReceivedRequest, ScriptedReplica, build_response};
use crate::harness::{TestRouter, chat_body, send_request, wait_until};

const CHAT_PATH: &str = "/v1/chat/completions";

/// A Unix socket whose connections are passed on to a replica's port. Dropping it removes the socket.
struct SocketBridge {
    path: PathBuf,
}

impl SocketBridge {
    fn start(path: PathBuf, to: SocketAddr) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(to).unwrap();
                copy_until_closed(client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    drop(io::copy(&mut &server, &mut &client));
                    drop(client.shutdown(std::net::Shutdown::Both));
                });
            }
        });
        Self { path }
    }
}

impl Drop for SocketBridge {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn copy_until_closed(client: UnixStream, server: TcpStream) {
    thread::spawn(move || {
        drop(io::copy(&mut &client, &mut &server));
        drop(server.shutdown(std::net::Shutdown::Write));
    });
}

/// Returns a free path for a socket of this test.
fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tokenweir-{}-{name}.sock", std::process::id()));
    drop(fs::remove_file(&path));
    path
}

fn play(received: &ReceivedRequest, to: &mut TcpStream) -> KeepConnection {
    let metrics = "vllm:num_requests_running 7\nvllm:num_requests_waiting 0\n";
    let response = match received.target() {
        "/metrics" => build_response(200, "text/plain", metrics),
        _ => build_response(200, "application/json", "{}"),
    };
    io::Write::write_all(to, &response).is_ok()
}

#[test]
fn requests_and_probes_reach_a_replica_at_a_unix_socket() {
    let replica = ScriptedReplica::start_with_metrics(&["m"], play);
    let bridge = SocketBridge::start(socket_path("serves"), replica.addr);
    let name = format!("unix:{}", bridge.path.display());
    let keys = "engine_metrics = \"100ms\"\nhealth_check = { interval = \"100ms\" }";
    let router = TestRouter::start(&format!("{keys}\nreplicas = [{name:?}]")).wait_until_ready();
    for stream in [false, true] {
        let reply = router.post(CHAT_PATH, chat_body("m", 2, stream));
        assert_eq!((reply.status, reply.header("x-upstream")), (200, Some(&*name)));
    }
    let received = replica.received_requests();
    let chats: Vec<_> = received.iter().filter(|received| received.target() == CHAT_PATH).collect();
    assert_eq!(chats.iter().map(|chat| chat.header("host")).collect::<Vec<_>>(), [Some("localhost"); 2]);
    wait_until("its health is checked", || replica.received_requests().iter().any(|r| r.target() == "/health"));
    wait_until("its engine's metrics are read", || replica.scrape_count() > 0);
    let pools = send_request(router.admin_addr, "GET", "/pools", "", "").text();
    assert!(pools.contains(&format!("\"url\":\"{name}\"")), "{pools}");
    assert_eq!(router.sum_metric("tokenweir_attempts_total", &[&format!("replica=\"{name}\"")]), 2.0);
}

#[test]
fn replica_at_a_unix_socket_has_options_and_a_path_prefix() {
    let replica = ScriptedReplica::start(&["m"], play);
    let bridge = SocketBridge::start(socket_path("prefix"), replica.addr);
    let url = format!("http://unix:{}:/llm/v1 name=gpu1 weight=2", bridge.path.display());
    let router = TestRouter::start(&format!("model = \"m\"\npaths = \"any\"\nreplicas = [{url:?}]"));
    let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
    assert_eq!((reply.status, reply.header("x-upstream")), (200, Some("gpu1")));
    wait_until("the path has the prefix", || {
        replica.received_requests().iter().any(|received| received.target() == "/llm/v1/chat/completions")
    });
}

#[test]
fn missing_socket_is_a_refused_connection_and_returns() {
    let (path, replica) = (socket_path("missing"), ScriptedReplica::start(&["m"], play));
    let replicas = [format!("unix:{} fail_timeout=100ms", path.display())];
    let router = TestRouter::start(&format!("model = \"m\"\npaths = \"any\"\nreplicas = {replicas:?}"));
    let reply = router.post(CHAT_PATH, chat_body("m", 2, false));
    assert_eq!((reply.status, &reply.openai_error()["code"]), (503, &"no_replica".into()));
    assert_eq!(router.sum_metric("tokenweir_ejections_total", &["reason=\"refused\""]), 1.0);
    let _bridge = SocketBridge::start(path, replica.addr);
    wait_until("the replica is back", || router.post(CHAT_PATH, chat_body("m", 2, false)).status == 200);
}
