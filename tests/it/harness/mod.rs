//! The integration tests' harness: replicas, a router in front of them, and a client.

pub mod captures;
pub mod client;
pub mod dns;
pub mod scripted;
pub mod tls;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenweir::clock::Clock;
use tokenweir::config;
use tokenweir::emulate::{EmulatedReplica, EmulatorSettings};
use tokenweir::engine::EngineModel;
use tokenweir::fleet::ReplicaModels;
use tokenweir::routes::ListenAddr;
use tokenweir::server::Server;
use tokenweir::units::Moment;

use client::{HttpResponse, TestClient, build_request};

/// The time limit for any wait of a test.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns emulator settings that run a thousand times faster than an H100.
pub fn fast_settings(models: &[&str]) -> EmulatorSettings {
    let constants = EngineModel { speed: 1000.0, ..EngineModel::default() };
    EmulatorSettings {
        models: models.iter().map(|m| (*m).to_owned()).collect(),
        engine_model: constants,
        ..EmulatorSettings::default()
    }
}

/// Starts an emulated replica on a free port.
pub fn start_replica(models: &[&str]) -> EmulatedReplica {
    start_replica_with(fast_settings(models))
}

pub fn start_replica_with(settings: EmulatorSettings) -> EmulatedReplica {
    EmulatedReplica::start(TcpListener::bind("127.0.0.1:0").unwrap(), settings, Clock::start()).unwrap()
}

/// Returns the test router's environment; it supplies what the configuration leaves out.
pub fn router_env(text: &str) -> Vec<(String, String)> {
    let env = [
        ("listen =", "LISTEN", "127.0.0.1:0"),
        ("access =", "LOG__ACCESS", "off"),
        ("error =", "LOG__ERROR", "off"),
        ("admin =", "ADMIN", "127.0.0.1:0"),
        ("admin_hosts =", "ADMIN_HOSTS", "router.test"),
        ("workers =", "WORKERS", "2"),
    ];
    let unsaid = env.into_iter().filter(|(key, ..)| !text.contains(key));
    unsaid.map(|(_, name, value)| (format!("TOKENWEIR__{name}"), value.to_owned())).collect()
}

/// A router in this process, on free ports, without logs.
pub struct TestRouter {
    pub server: Server,
    pub addr: SocketAddr,
    pub admin_addr: SocketAddr,
}

impl TestRouter {
    /// Starts a router with this configuration text; does not wait until it is ready.
    pub fn start(text: &str) -> Self {
        let loaded = config::load(text, "router.toml", router_env(text)).unwrap_or_else(|report| panic!("{report}"));
        let server = Server::start(loaded.settings).unwrap();
        let Some(ListenAddr::Tcp(addr)) = server.listen_addresses().first() else {
            panic!("the router has no TCP listener")
        };
        Self { addr: *addr, admin_addr: server.admin_address().unwrap(), server }
    }

    /// Starts a router with one pool over these replicas and waits until it is ready. Idle replicas take turns.
    pub fn start_with_replicas<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        let urls: Vec<String> = urls.into_iter().map(|url| format!("{url:?}")).collect();
        Self::start(&format!("policy = \"least_conn\"\nreplicas = [{}]", urls.join(", "))).wait_until_ready()
    }

    /// Waits until every replica has listed its models.
    pub fn wait_until_ready(self) -> Self {
        let unknown = |replica: &std::sync::Arc<tokenweir::fleet::Replica>| *replica.models() == ReplicaModels::Unknown;
        wait_until("every replica has listed its models", || !self.server.fleet().replicas().iter().any(unknown));
        self
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
        let text = send_request(self.admin_addr, "GET", "/metrics", "", "").text();
        let chosen = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        chosen.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Returns the number of requests that hold a lease on a replica.
    pub fn in_flight(&self) -> u32 {
        self.server.fleet().replicas().iter().map(|replica| replica.in_flight()).sum()
    }
}

/// Starts a router that reloads its configuration from the text in the mutex.
pub fn start_reloadable_router(text: &str) -> (TestRouter, Arc<Mutex<String>>) {
    let file = Arc::new(Mutex::new(text.to_owned()));
    let router = TestRouter::start(text).wait_until_ready();
    let source = file.clone();
    router.server.set_config_source(Box::new(move || {
        let text = source.lock().expect("no panic").clone();
        config::load(&text, "router.toml", router_env(&text)).map_err(|report| report.to_string())
    }));
    (router, file)
}

/// Sends one request on its own connection and returns the response.
pub fn send_request(addr: SocketAddr, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> HttpResponse {
    let mut client = TestClient::connect(addr);
    client.send(build_request(method, path, &format!("connection: close\r\n{headers}"), body));
    if method == "HEAD" { client.read_response_to_head() } else { client.read_response() }
}

/// Returns a chat request body for `tokens` tokens.
pub fn chat_body(model: &str, tokens: u32, stream: bool) -> String {
    let wish = if stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hello"}}],"max_tokens":{tokens}{wish}}}"#)
}

/// Waits until a condition holds; fails after [`TEST_TIMEOUT`].
pub fn wait_until(what: &str, fact: impl FnMut() -> bool) {
    wait_at_most(TEST_TIMEOUT, what, fact);
}

/// Waits until a condition holds; fails after `limit`.
pub fn wait_at_most(limit: Duration, what: &str, mut fact: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !fact() {
        assert!(clock.now().since(Moment::ZERO) < limit, "not true within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns an address without a listener.
pub fn unused_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
