//! The agents, a row each.

use serde_json::json;

use super::settings::{AgentSettings, EnvValue};
use super::target::RouterTarget;

/// The key of a router that needs none; agents insist on one.
const NO_KEY: &str = "none";
/// The name of the router in the agents that have several providers.
const PROVIDER: &str = "tokenweir";
/// The longest answer, in tokens, of a model with a long context; with a shorter one it is a quarter of that.
const MAX_OUTPUT: u64 = 32_000;

/// An agent.
pub(in crate::cli) struct AgentSpec {
    pub(in crate::cli) name: &'static str,
    /// The endpoint that it uses, for the help.
    endpoint: &'static str,
    /// The program's name.
    pub(in crate::cli) program: &'static str,
    /// The command that installs it.
    pub(in crate::cli) install: &'static str,
    pub(in crate::cli) settings: fn(&RouterTarget) -> AgentSettings,
}

const AGENTS: &[AgentSpec] = &[
    AgentSpec {
        name: "claude",
        endpoint: "/v1/messages",
        program: "claude",
        install: "npm install -g @anthropic-ai/claude-code",
        settings: claude_settings,
    },
    AgentSpec {
        name: "codex",
        endpoint: "/v1/responses",
        program: "codex",
        install: "npm install -g @openai/codex",
        settings: codex_settings,
    },
    AgentSpec {
        name: "opencode",
        endpoint: "/v1/chat/completions",
        program: "opencode",
        install: "npm install -g opencode-ai",
        settings: opencode_settings,
    },
];

pub(in crate::cli) fn agent_names() -> Vec<&'static str> {
    AGENTS.iter().map(|agent| agent.name).collect()
}

pub(in crate::cli) fn find_agent(name: &str) -> Option<&'static AgentSpec> {
    AGENTS.iter().find(|agent| agent.name == name)
}

/// Returns the table of agents for the help.
pub(in crate::cli) fn format_agents() -> String {
    let row = |agent: &AgentSpec| format!("  {:<9} {:<21} {}\n", agent.name, agent.endpoint, agent.install);
    format!("Agents, the endpoint of each, and how to install it:\n{}", AGENTS.iter().map(row).collect::<String>())
}

/// Claude Code: <https://code.claude.com/docs/en/env-vars>. A settings file's `env` precedes the environment, so all
/// but the key is also given by `--settings`, which precedes the files.
fn claude_settings(target: &RouterTarget) -> AgentSettings {
    let mut texts = vec![
        ("ANTHROPIC_BASE_URL", target.url.as_str().to_owned()),
        ("ANTHROPIC_MODEL", target.model.clone()),
        // Names of tiers and the models of sub-agents.
        ("ANTHROPIC_DEFAULT_FABLE_MODEL", target.model.clone()),
        ("ANTHROPIC_DEFAULT_OPUS_MODEL", target.model.clone()),
        ("ANTHROPIC_DEFAULT_SONNET_MODEL", target.model.clone()),
        ("ANTHROPIC_DEFAULT_HAIKU_MODEL", target.model.clone()),
        ("CLAUDE_CODE_SUBAGENT_MODEL", target.model.clone()),
        // It changes with every request and precedes the system prompt: engines that render it find no cached prefix.
        ("CLAUDE_CODE_ATTRIBUTION_HEADER", "0".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
    ];
    if let Some(context) = target.context {
        texts.push(("CLAUDE_CODE_AUTO_COMPACT_WINDOW", context.to_string()));
        texts.push(("CLAUDE_CODE_MAX_OUTPUT_TOKENS", max_output(context).to_string()));
    }
    let settings = json!({"env": texts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>()});
    let mut variables = text_variables(texts);
    variables.push(("ANTHROPIC_AUTH_TOKEN".to_owned(), key_value(target)));
    AgentSettings {
        variables,
        // They precede the token, or select another provider.
        removed: &["ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"],
        args: vec!["--settings".to_owned(), settings.to_string()],
    }
}

/// Codex: <https://developers.openai.com/codex/config-reference>. A configured provider precedes the built-in ones.
fn codex_settings(target: &RouterTarget) -> AgentSettings {
    let mut overrides =
        vec![("model".to_owned(), quote_toml(&target.model)), ("model_provider".to_owned(), quote_toml(PROVIDER))];
    let mut set_provider = |key: &str, value: &str| {
        overrides.push((format!("model_providers.{PROVIDER}.{key}"), quote_toml(value)));
    };
    set_provider("name", PROVIDER);
    set_provider("base_url", &target.url.with_v1());
    set_provider("wire_api", "responses");
    if let Some(key) = &target.key {
        set_provider("env_key", &key.env_name);
    }
    if let Some(context) = target.context {
        overrides.push(("model_context_window".to_owned(), context.to_string()));
    }
    let args = overrides.into_iter().flat_map(|(key, value)| ["-c".to_owned(), format!("{key}={value}")]).collect();
    AgentSettings { args, ..AgentSettings::default() }
}

/// OpenCode: <https://opencode.ai/docs/providers>. Its files are kept; this configuration is merged into theirs.
fn opencode_settings(target: &RouterTarget) -> AgentSettings {
    let key = match &target.key {
        Some(key) => format!("{{env:{}}}", key.env_name),
        None => NO_KEY.to_owned(),
    };
    let mut model = json!({"name": target.model});
    if let Some(context) = target.context {
        model["limit"] = json!({"context": context, "output": max_output(context)});
    }
    let model_name = format!("{PROVIDER}/{}", target.model);
    let config = json!({
        "model": model_name,
        // Titles of conversations.
        "small_model": model_name,
        "provider": {PROVIDER: {
            "npm": "@ai-sdk/openai-compatible",
            "name": PROVIDER,
            "options": {"baseURL": target.url.with_v1(), "apiKey": key},
            "models": {&target.model: model},
        }},
    });
    AgentSettings {
        variables: text_variables(vec![("OPENCODE_CONFIG_CONTENT", config.to_string())]),
        ..AgentSettings::default()
    }
}

fn text_variables(texts: Vec<(&str, String)>) -> Vec<(String, EnvValue)> {
    texts.into_iter().map(|(name, text)| (name.to_owned(), EnvValue::Text(text))).collect()
}

fn key_value(target: &RouterTarget) -> EnvValue {
    target.key.clone().map_or_else(|| EnvValue::Text(NO_KEY.to_owned()), EnvValue::Key)
}

/// Returns the longest answer of a model with this context, in tokens.
fn max_output(context: u64) -> u64 {
    MAX_OUTPUT.min(context / 4).max(1)
}

/// Returns a TOML string: TOML knows all of JSON's escapes.
fn quote_toml(text: &str) -> String {
    json!(text).to_string()
}
