//! Layer 5: arguments and exit codes, one file per sub-command.

mod agents;
mod args;
mod check;
mod config_source;
mod demo;
mod emulate;
mod explain;
mod http_client;
mod import;
mod launch;
mod output;
mod replay;
mod serve;
mod signals;
mod token_env;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Runs the sub-command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => demo::run(&cli.demo),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Emulate(args)) => emulate::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Launch(args)) => launch::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            output::print_error(message.trim_end());
            ExitCode::FAILURE
        }
    }
}
