//! `tokenweir launch`: starts a coding agent with the router's address, key and model.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;

use super::agents::{AgentSpec, ClientKey, RouterTarget, RouterUrl, choose_model, fetch_models, find_agent};
use super::args::LaunchArgs;
use super::output::print_line;
use super::signals::block_on;
use super::token_env::read_token;

/// The variable that holds the API key, if none is named.
const DEFAULT_KEY_ENV: &str = "TOKENWEIR_API_KEY";

/// Replaces this process by the agent, so that terminal, signals and exit code are the agent's. With `--print`, prints
/// its settings.
///
/// *Errors*: the router cannot be asked, no model can be chosen, or the agent is not installed.
pub(super) fn run(args: &LaunchArgs) -> Result<(), String> {
    let agent = find_agent(&args.agent).ok_or_else(|| format!("there is no agent {}", args.agent))?;
    let settings = (agent.settings)(&find_target(args)?);
    if args.print {
        print_line(settings.shell_commands(agent.program, &args.args));
        return Ok(());
    }
    let error = settings.command(agent.program, &args.args).exec();
    Err(describe_start_error(agent, &error))
}

/// Returns the router and the model that the arguments name.
///
/// *Errors*: as [`run`].
fn find_target(args: &LaunchArgs) -> Result<RouterTarget, String> {
    let url = RouterUrl::parse(&args.url)?;
    let key = read_key(args.key_env.as_deref())?;
    let models = block_on(fetch_models(&url, key.as_ref()))?;
    let model = choose_model(models, args.model.as_deref())?;
    Ok(RouterTarget { url, key, model: model.id, context: args.context.or(model.max_model_len) })
}

/// Returns the key in the variable `name`; without a name, that in the default variable, if it is set.
///
/// *Errors*: the variable that is named is not set, or one has no key.
fn read_key(name: Option<&str>) -> Result<Option<ClientKey>, String> {
    let env_name = match name {
        Some(name) => name,
        None if std::env::var_os(DEFAULT_KEY_ENV).is_none() => return Ok(None),
        None => DEFAULT_KEY_ENV,
    };
    Ok(Some(ClientKey { env_name: env_name.to_owned(), value: read_token(env_name)? }))
}

fn describe_start_error(agent: &AgentSpec, error: &std::io::Error) -> String {
    let program = agent.program;
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{program} is not installed, or not on the PATH: `{}` installs it", agent.install)
        }
        _ => format!("cannot start {program}: {error}"),
    }
}
