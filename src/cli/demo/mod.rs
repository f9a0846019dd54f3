//! No sub-command: a demo, with a router in front of three emulated replicas, a little load, commands to try, and
//! events to watch on the live page.

mod replicas;
mod story;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use self::replicas::{MODEL_NAME, REPLICA_SPEEDS, bind_free_port, start_replica};
use crate::balance::PolicySpec;
use crate::cli::args::DemoArgs;
use crate::cli::config_source::load_urls;
use crate::cli::output::print_line;
use crate::cli::signals::{self, Signals};
use crate::clock;
use crate::config::{LoadedConfig, LogSink, Settings};
use crate::emulate::EmulatedReplica;
use crate::emulate::load::{self, LoadCounters, LoadSettings};
use crate::server::Server;

const REQUESTS_PER_SECOND: f64 = 2.0;

/// Runs the demo until a signal ends the process.
///
/// *Errors*: a replica or the server cannot start.
pub(super) fn run(args: &DemoArgs) -> Result<(), String> {
    let replicas = REPLICA_SPEEDS.into_iter().map(|(_, speed)| start_replica(bind_free_port()?, speed));
    let replicas = replicas.collect::<Result<Vec<_>, _>>()?;
    let server = Server::start(build_settings(&replicas, args)?).map_err(|error| error.to_string())?;
    let base = server.listen_addresses().first().map(|listen| format!("http://{listen}")).unwrap_or_default();
    signals::block_on(async {
        let signals = Signals::new()?;
        print_intro(&base, &server, &replicas, args);
        let with_load = !args.no_load;
        let load = tokio::spawn(async move {
            if with_load {
                // It ends only if no client can be made; then the demo runs without load.
                let _ = load::run_load(
                    build_load_settings(base),
                    Arc::new(LoadCounters::default()),
                    std::future::pending(),
                )
                .await;
            }
        });
        let story = tokio::spawn(story::play(replicas, args.calm));
        let stopped = signals::run_until_stopped(server, signals, Duration::ZERO).await;
        load.abort();
        story.abort();
        stopped
    })
}

fn build_settings(replicas: &[EmulatedReplica], args: &DemoArgs) -> Result<Settings, String> {
    let url = |(replica, (name, _)): (&EmulatedReplica, (&str, f64))| format!("{} name={name}", replica.url());
    let urls: Vec<String> = replicas.iter().zip(REPLICA_SPEEDS).map(url).collect();
    let LoadedConfig { mut settings, .. } = load_urls(&urls)?;
    settings.log.access = LogSink::Off;
    settings.log.error = LogSink::Off;
    // Another router may run on this machine: then any port serves.
    if let Some(admin) = settings.admin.as_mut().filter(|admin| TcpListener::bind(**admin).is_err()) {
        admin.set_port(0);
    }
    if let Some(policy) = &args.policy {
        let policy = PolicySpec::parse(policy).map_err(|error| error.to_string())?;
        settings.pools.iter_mut().for_each(|pool| pool.policy = policy.clone());
    }
    // What it would do is shown on the page.
    settings.pools.iter_mut().for_each(|pool| pool.shadow = PolicySpec::parse("least_conn").ok());
    Ok(settings)
}

fn build_load_settings(base_url: String) -> LoadSettings {
    LoadSettings {
        base_url,
        model: MODEL_NAME.to_owned(),
        requests_per_second: REQUESTS_PER_SECOND,
        max_open_requests: 64,
        max_tokens: 300,
        max_requests: None,
        seed: clock::random_seed(),
    }
}

fn print_intro(base: &str, server: &Server, replicas: &[EmulatedReplica], args: &DemoArgs) {
    let engines = replicas.iter().zip(REPLICA_SPEEDS).map(|(r, (name, _))| format!("{name} {}", r.addr()));
    let load = if args.no_load { "none".to_owned() } else { format!("about {REQUESTS_PER_SECOND} requests a second") };
    if let Some(admin) = server.admin_address() {
        print_line(format_args!("Look: http://{admin}/ shows where every token is"));
    }
    print_line(format_args!("tokenweir demo: {base}/v1 in front of {}", engines.collect::<Vec<_>>().join(", ")));
    print_line(format_args!("built-in load: {load}. Ctrl-C ends it. Try:"));
    let body = format!(
        r#"{{"model":"{MODEL_NAME}","stream":true,"max_tokens":20,"messages":[{{"role":"user","content":"hi"}}]}}"#
    );
    print_line(format_args!("  curl -Ni {base}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"));
    print_line("Or with the OpenAI SDK:");
    print_line("  from openai import OpenAI");
    print_line(format_args!("  client = OpenAI(base_url=\"{base}/v1\", api_key=\"none\")"));
    let arguments = format!("model=\"{MODEL_NAME}\", messages=[{{\"role\": \"user\", \"content\": \"hi\"}}]");
    print_line(format_args!("  answer = client.chat.completions.create({arguments})"));
    print_line("  print(answer.choices[0].message.content)");
    if let Some(admin) = server.admin_address() {
        print_line(format_args!("Metrics: http://{admin}/metrics"));
    }
    print_line(format_args!("Your own replicas: tokenweir serve http://HOST:8000 http://HOST:8001"));
}
