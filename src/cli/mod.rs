//! Floor 5: arguments and exit codes, one file per sub-command.

mod check;
mod demo;
mod emulate;
mod explain;
mod import;
mod replay;
mod serve;
mod signals;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::balance;
use crate::config::{self, LoadedConfig};

/// An LLM-aware, OpenAI-compatible inference router.
///
/// Without a command: a demo, a router in front of three emulated replicas.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Args, Debug)]
struct DemoArgs {
    /// Do not send any load to the demo
    #[arg(long)]
    no_load: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Routes requests to replicas, given as URLs or by a configuration file
    #[command(after_help = format_policies())]
    Serve(ServeArgs),
    /// Checks a configuration file, like `nginx -t`
    Check(CheckArgs),
    /// Prints the router.toml that does what an nginx configuration does
    Import(ImportArgs),
    /// Runs emulated replicas
    Emulate(EmulateArgs),
    /// Tells why a request went where it went: asks the running router's admin listener
    Explain(explain::ExplainArgs),
    /// Replays recorded traffic under several policies, in virtual time
    #[command(after_help = format_policies())]
    Replay(replay::ReplayArgs),
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Replicas, such as http://10.0.0.1:8000 or "http://10.0.0.1:8000 weight=2"; models are learned from them
    #[arg(required_unless_present = "config")]
    urls: Vec<String>,
    /// The configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "urls")]
    config: Option<PathBuf>,
    /// Only check the configuration
    #[arg(short, long)]
    test: bool,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
struct ImportArgs {
    /// nginx's main file, such as /etc/nginx/nginx.conf, or one with `upstream` and `server` alone
    file: PathBuf,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct EmulateArgs {
    /// The first port
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// How many replicas, on this port and those after it
    #[arg(long, default_value_t = 1)]
    count: u16,
    /// The address to listen at
    #[arg(long, default_value = "127.0.0.1")]
    host: std::net::IpAddr,
    /// How many times faster than an 8B model on one H100
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// A model's name; may be given several times [default: emulated-8b]
    #[arg(long)]
    model: Vec<String>,
    /// Answer with the request as it came, in plain text
    #[arg(long)]
    echo: bool,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => demo::run(!cli.demo.no_load),
        Some(Command::Serve(args)) if args.test => {
            load_config(&args.config, &args.urls).and_then(|loaded| check::print_report(&loaded))
        }
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Check(args)) => {
            load_config(&Some(args.config), &[]).and_then(|loaded| check::print_report(&loaded))
        }
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Emulate(args)) => emulate::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            print_line(&mut std::io::stderr(), format_args!("{}", message.trim_end()));
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration from a file or from URLs, with the environment's overrides.
fn load_config(file: &Option<PathBuf>, urls: &[String]) -> Result<LoadedConfig, String> {
    // Variables that are no Unicode cannot be ours.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match file {
        None => config::from_urls(urls, env).map_err(|report| report.to_string()),
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {name}: {error}"))?;
            config::load(&text, &name, env).map_err(|report| report.to_string())
        }
    }
}

/// The environment; variables that are no Unicode cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Writes a line; a closed pipe is no error.
fn print_line(to: &mut impl Write, line: fmt::Arguments<'_>) {
    let _ = writeln!(to, "{line}");
}

fn format_policies() -> String {
    let rows = balance::policy_table().iter().map(|entry| format!("  {:<41}  {}\n", entry.usage(), entry.help));
    format!("Policies:\n{}", rows.collect::<String>())
}
