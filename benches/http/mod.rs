//! Common parts of the HTTP benches: emulated replicas, a router in this process, and a stream reader.

#![allow(unreachable_pub, reason = "each bench is a separate crate")]

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use tokenweir::clock::Clock;
use tokenweir::config;
use tokenweir::emulate::{EmulatedReplica, EmulatorSettings};
use tokenweir::engine::EngineModel;
use tokenweir::fleet::ReplicaModels;
use tokenweir::routes::ListenAddr;
use tokenweir::server::Server;
use tokenweir::units::Moment;
use tokio::time::sleep;

pub type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Replicas and a ready router in front of them.
pub struct BenchSetup {
    pub replicas: Vec<EmulatedReplica>,
    pub server: Server,
    pub url: String,
}

impl BenchSetup {
    pub async fn new(policy: &str, replicas: usize, constants: EngineModel) -> BenchResult<Self> {
        let settings = EmulatorSettings { engine_model: constants, ..EmulatorSettings::default() };
        let start = || EmulatedReplica::start(TcpListener::bind("127.0.0.1:0")?, settings.clone(), Clock::start());
        let replicas: Vec<EmulatedReplica> = (0..replicas).map(|_| start()).collect::<Result<_, _>>()?;
        let server = start_router(policy, &replicas)?;
        let Some(ListenAddr::Tcp(addr)) = server.listen_addresses().first() else {
            return Err("the router has no TCP listener".into());
        };
        let url = format!("http://{addr}/v1/chat/completions");
        while server.fleet().replicas().iter().any(|replica| *replica.models() == ReplicaModels::Unknown) {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { replicas, server, url })
    }
}

fn start_router(policy: &str, replicas: &[EmulatedReplica]) -> BenchResult<Server> {
    let urls: Vec<String> = replicas.iter().map(|replica| format!("{:?}", replica.url())).collect();
    let text = format!("policy = \"{policy}\"\nreplicas = [{}]", urls.join(", "));
    let env = [("LISTEN", "127.0.0.1:0"), ("ADMIN", "127.0.0.1:0"), ("LOG__ERROR", "off"), ("LOG__ACCESS", "off")];
    let env = env.into_iter().map(|(key, value)| (format!("TOKENWEIR__{key}"), value.to_owned()));
    let loaded = config::load(&text, "router.toml", env).map_err(|report| report.to_string())?;
    Server::start(loaded.settings).map_err(|error| error.to_string().into())
}

/// Reads a stream to its end; returns the time of its first event, which carries the first token.
pub async fn read_first_event_time(request: reqwest::RequestBuilder, clock: Clock) -> BenchResult<Moment> {
    let mut response = request.send().await?.error_for_status()?;
    let mut first = None;
    let mut last = bytes::Bytes::new();
    while let Some(chunk) = response.chunk().await? {
        first.get_or_insert_with(|| clock.now());
        last = chunk;
    }
    if !last.ends_with(b"data: [DONE]\n\n") {
        return Err("a stream ended early".into());
    }
    first.ok_or_else(|| "a stream ended without an event".into())
}
