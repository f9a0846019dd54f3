//! No command: a router in front of three emulated replicas, a little load, and what to try.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::stop::Signals;
use super::{environment, stop, tell};
use crate::clock::{self, Clock};
use crate::config::{self, Loaded, Settings, Sink};
use crate::emulate::load::{self, LoadCounters, LoadSettings};
use crate::emulate::{self, Replica};
use crate::engine::Constants;
use crate::serve::Server;

/// The replicas: a newer card, the card the engine's constants are of, and an older one.
const SPEEDS: [(&str, f64); 3] = [("fast", 2.0), ("normal", 1.0), ("slow", 0.5)];
const MODEL: &str = "emulated-8b";
/// Requests per second of the built-in load.
const RATE: f64 = 2.0;

/// Runs the demo until told to stop.
pub(super) fn run(with_load: bool) -> Result<(), String> {
    let replicas = SPEEDS.into_iter().map(|(_, speed)| replica(speed)).collect::<Result<Vec<_>, _>>()?;
    let server = Server::start(settings(&replicas)?).map_err(|error| error.to_string())?;
    let base = server.listening().first().map(|listen| format!("http://{listen}")).unwrap_or_default();
    stop::block_on(async {
        let signals = Signals::new()?;
        introduce(&base, &server, &replicas, with_load);
        let load = tokio::spawn(async move {
            if with_load {
                // Only a client that cannot be made ends it; the demo goes on without load then.
                let _ = load::run(clients(base), Arc::new(LoadCounters::default()), std::future::pending()).await;
            }
        });
        let stopped = stop::wait(server, signals, Duration::ZERO).await;
        load.abort();
        stopped
    })
}

fn replica(speed: f64) -> Result<Replica, String> {
    let why = |error| format!("an emulated replica cannot be started: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(why)?;
    let constants = Constants { speed, ..Constants::default() };
    let settings = emulate::Settings { models: vec![MODEL.to_owned()], constants, ..emulate::Settings::default() };
    Replica::start(listener, settings, Clock::start()).map_err(why)
}

fn settings(replicas: &[Replica]) -> Result<Settings, String> {
    let member = |(replica, (name, _)): (&Replica, (&str, f64))| format!("{} name={name}", replica.url());
    let urls: Vec<String> = replicas.iter().zip(SPEEDS).map(member).collect();
    let Loaded { mut settings, .. } = config::from_urls(&urls, environment()).map_err(|report| report.to_string())?;
    settings.log.access = Sink::Off;
    settings.log.error = Sink::Off;
    Ok(settings)
}

fn clients(base_url: String) -> LoadSettings {
    LoadSettings {
        base_url,
        model: MODEL.to_owned(),
        rate: RATE,
        max_open: 64,
        max_tokens: 300,
        requests: None,
        seed: clock::seed(),
    }
}

fn introduce(base: &str, server: &Server, replicas: &[Replica], with_load: bool) {
    let engines = replicas.iter().zip(SPEEDS).map(|(r, (name, _))| format!("{name} {}", r.addr()));
    let load = if with_load { format!("about {RATE} requests a second") } else { "none".to_owned() };
    let mut out = std::io::stdout();
    tell(&mut out, format_args!("tokenweir demo: {base}/v1 in front of {}", engines.collect::<Vec<_>>().join(", ")));
    tell(&mut out, format_args!("built-in load: {load}. Ctrl-C ends it. Try:"));
    let body =
        format!(r#"{{"model":"{MODEL}","stream":true,"max_tokens":20,"messages":[{{"role":"user","content":"hi"}}]}}"#);
    tell(
        &mut out,
        format_args!("  curl -Ni {base}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"),
    );
    tell(&mut out, format_args!("Or with the OpenAI SDK:"));
    tell(&mut out, format_args!("  from openai import OpenAI"));
    tell(&mut out, format_args!("  client = OpenAI(base_url=\"{base}/v1\", api_key=\"none\")"));
    let ask = format!("model=\"{MODEL}\", messages=[{{\"role\": \"user\", \"content\": \"hi\"}}]");
    tell(&mut out, format_args!("  answer = client.chat.completions.create({ask})"));
    tell(&mut out, format_args!("  print(answer.choices[0].message.content)"));
    if let Some(admin) = server.admin() {
        tell(&mut out, format_args!("Metrics: http://{admin}/metrics"));
    }
    tell(&mut out, format_args!("Your own replicas: tokenweir serve http://HOST:8000 http://HOST:8001"));
}
