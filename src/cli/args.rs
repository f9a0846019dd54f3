//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use super::agents;
use crate::balance;
use crate::replay::SyntheticKind;

/// An LLM-aware, OpenAI-compatible inference router.
///
/// Without a command: a demo, a router in front of three emulated replicas.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) demo: DemoArgs,
}

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Do not send any load to the demo
    #[arg(long)]
    pub(super) no_load: bool,
    /// Keep the replicas as they are: none slows down or stops
    #[arg(long)]
    pub(super) calm: bool,
    /// The policy, as in a configuration
    #[arg(long, value_name = "NAME")]
    pub(super) policy: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Routes requests to replicas, given as URLs or by a configuration file
    #[command(after_help = format_policies())]
    Serve(ServeArgs),
    /// Checks a configuration file, like `nginx -t`
    Check(CheckArgs),
    /// Prints the router.toml that is equivalent to an nginx configuration
    Import(ImportArgs),
    /// Runs emulated replicas
    Emulate(EmulateArgs),
    /// Explains the choice of a request's replica, read from the running router's admin listener
    Explain(ExplainArgs),
    /// Starts a coding agent with the router's address, key and model; no file is changed
    #[command(after_help = agents::format_agents())]
    Launch(LaunchArgs),
    /// Replays recorded traffic under several policies, in virtual time
    #[command(after_help = format_policies())]
    Replay(ReplayArgs),
}

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Replicas, such as http://10.0.0.1:8000 or "http://10.0.0.1:8000 weight=2"; their models are discovered
    #[arg(required_unless_present = "config")]
    pub(super) urls: Vec<String>,
    /// The configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "urls")]
    pub(super) config: Option<PathBuf>,
    /// Only check the configuration
    #[arg(short, long)]
    pub(super) test: bool,
}

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print every route: address, host, path, where it leads, who may ask, limits
    #[arg(long)]
    pub(super) routes: bool,
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// nginx's main file, such as /etc/nginx/nginx.conf, or one with only `upstream` and `server`
    pub(super) file: PathBuf,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct EmulateArgs {
    /// The first port
    #[arg(long, default_value_t = 8000)]
    pub(super) port: u16,
    /// The number of replicas, on this port and those after it
    #[arg(long, default_value_t = 1)]
    pub(super) count: u16,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: IpAddr,
    /// The speed relative to an 8B model on one H100
    #[arg(long, default_value_t = 1.0)]
    pub(super) speed: f64,
    /// A model's name; may be given several times [default: emulated-8b]
    #[arg(long)]
    pub(super) model: Vec<String>,
    /// End answers after this many tokens, even if the request allows more
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) stop_after: Option<u64>,
    /// Respond with the received request, in plain text
    #[arg(long)]
    pub(super) echo: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The request's id: `X-Request-Id` of the response
    pub(super) id: String,
    /// The router's configuration file, which has the address of its admin listener
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    pub(super) config: Option<PathBuf>,
    /// The address of the admin listener [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
    /// The environment variable that holds the admin listener's token, if it needs one
    #[arg(long, value_name = "NAME")]
    pub(super) token_env: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct LaunchArgs {
    /// The agent
    #[arg(value_parser = PossibleValuesParser::new(agents::agent_names()))]
    pub(super) agent: String,
    /// The router's address
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// The environment variable that holds the API key [default: TOKENWEIR_API_KEY, if set]
    #[arg(long, value_name = "NAME")]
    pub(super) key_env: Option<String>,
    /// The model [default: the only one that the router lists]
    #[arg(long)]
    pub(super) model: Option<String>,
    /// The longest prompt and answer together, in tokens [default: as the router lists it]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) context: Option<u64>,
    /// Print the settings as shell commands instead of starting the agent
    #[arg(long)]
    pub(super) print: bool,
    /// Arguments of the agent
    #[arg(last = true)]
    pub(super) args: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// The trace: JSON lines, Mooncake's JSON lines or Azure's CSV, compressed by gzip or not
    #[arg(required_unless_present = "synthetic")]
    pub(super) trace: Option<PathBuf>,
    /// Generate a trace instead: chat, tools, agents or uniform
    #[arg(long, value_name = "KIND", conflicts_with = "trace")]
    pub(super) synthetic: Option<SyntheticKind>,
    /// The number of requests to generate
    #[arg(long, value_name = "COUNT", default_value_t = 3000, requires = "synthetic", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) requests: u32,
    /// Policies, as in a configuration, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "least_conn,token_cost")]
    pub(super) policy: Vec<String>,
    /// Replicas behind the router
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) replicas: u32,
    /// The rate of requests relative to the recorded one; for a closed loop (`think_ms`), new sessions per second
    /// [default: 1, for a closed loop 0.1]
    #[arg(long)]
    pub(super) speed: Option<f64>,
    /// The seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Routers without shared state; each request goes to one of them at random
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) routers: u32,
    /// Restart the routers at this second, without their state
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(super) restart_at: Option<Duration>,
    /// The KV memory of a replica, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(super) kv: Option<u64>,
    /// The speed of a replica relative to an 8B model on one H100; a list, separated by commas, is one per replica
    #[arg(long, value_name = "SPEED", value_delimiter = ',')]
    pub(super) engine_speed: Vec<f64>,
    /// The longest time to first token of a good response, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "2")]
    pub(super) slo_ttft: Duration,
    /// The longest mean time between two tokens of a good response, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0.05")]
    pub(super) slo_tpot: Duration,
    /// Search for the highest speed at which 90 % of responses are good, and for the fewest replicas that sustain
    /// `--speed`
    #[arg(long)]
    pub(super) capacity: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    pub(super) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Returns the table of policies for the help.
fn format_policies() -> String {
    let rows = balance::policy_table().iter().map(|entry| format!("  {:<41}  {}\n", entry.usage(), entry.help));
    format!("Policies:\n{}", rows.collect::<String>())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a duration".to_owned())
}
