//! `tokenweir launch`: stand-ins for the agents print what they were started with.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{TestRouter, start_replica, unused_addr};

const KEY: &str = "sk-launch-0123456789";
const AGENTS: [&str; 3] = ["claude", "codex", "opencode"];
/// A program of the repository: one that a test writes may be busy when it is started.
const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/agent_stand_in.sh");

/// A folder of stand-ins for the agents. Removed on drop.
struct AgentDir(PathBuf);

impl AgentDir {
    fn create(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tokenweir-{}-launch-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        for agent in AGENTS {
            symlink(STAND_IN, folder.join(agent)).unwrap();
        }
        Self(folder)
    }

    /// Returns a command whose agents are the stand-ins.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", self.0.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn launch(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_tokenweir"));
        command.arg("launch").args(args);
        command
    }
}

impl Drop for AgentDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must fail, and returns its message.
fn failure(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    stderr(&output)
}

/// Returns the value of a variable that a stand-in printed.
fn variable<'a>(printed: &'a str, name: &str) -> &'a str {
    let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in {printed}"))
}

#[test]
fn claude_gets_address_key_and_model_for_every_tier() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("claude");
    let url = format!("http://{}", router.addr);
    let mut command = agents.launch(&["claude", "--url", &url, "--context", "65536", "--", "-p", "it's"]);
    let removed = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK"];
    let output = command.env("TOKENWEIR_API_KEY", KEY).envs(removed.map(|name| (name, "1"))).output().unwrap();
    let printed = stdout(&output);
    let mut expected = vec![
        ("ANTHROPIC_BASE_URL", url.as_str()),
        ("CLAUDE_CODE_SUBAGENT_MODEL", "m"),
        ("CLAUDE_CODE_ATTRIBUTION_HEADER", "0"),
        ("CLAUDE_CODE_AUTO_COMPACT_WINDOW", "65536"),
        ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "16384"),
    ];
    let models =
        ["", "DEFAULT_OPUS_", "DEFAULT_SONNET_", "DEFAULT_HAIKU_"].map(|tier| format!("ANTHROPIC_{tier}MODEL"));
    expected.extend(models.iter().map(|name| (name.as_str(), "m")));
    let settings = printed.split_once("arg=--settings\narg=").and_then(|(_, rest)| rest.lines().next());
    let settings: Value = serde_json::from_str(settings.expect("no --settings")).unwrap();
    for (name, value) in expected {
        assert_eq!(variable(&printed, name), value, "{name}");
        assert_eq!(settings["env"][name], value, "{name}");
    }
    assert_eq!(variable(&printed, "ANTHROPIC_AUTH_TOKEN"), KEY);
    assert!(!settings.to_string().contains(KEY) && printed.ends_with("arg=-p\narg=it's\n"), "{printed}");
    assert!(!removed.iter().any(|name| printed.contains(name)), "{printed}");
}

#[test]
fn codex_gets_a_provider_by_arguments() {
    let replica = start_replica(&["org/m"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("codex");
    let url = format!("http://{}/v1/", router.addr);
    let launch = ["codex", "--url", &url, "--context", "9000", "--key-env", "ROUTER_KEY", "--", "exec", "do"];
    let printed = stdout(&agents.launch(&launch).env("ROUTER_KEY", KEY).output().unwrap());
    let base_url = format!(r#"model_providers.tokenweir.base_url="http://{}/v1""#, router.addr);
    let mut expected = String::new();
    for setting in [
        r#"model="org/m""#,
        r#"model_provider="tokenweir""#,
        r#"model_providers.tokenweir.name="tokenweir""#,
        &base_url,
        r#"model_providers.tokenweir.wire_api="responses""#,
        r#"model_providers.tokenweir.env_key="ROUTER_KEY""#,
        "model_context_window=9000",
    ] {
        expected.push_str(&format!("arg=-c\narg={setting}\n"));
    }
    assert_eq!(printed, format!("{expected}arg=exec\narg=do\n"));
}

#[test]
fn opencode_gets_a_provider_by_its_environment() {
    let replica = start_replica(&["org/m"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("opencode");
    let url = format!("http://{}", router.addr);
    let launch = |env: &[(&str, &str)]| {
        let mut command = agents.launch(&["opencode", "--url", &url, "--context", "200000"]);
        let printed = stdout(&command.envs(env.iter().copied()).output().unwrap());
        serde_json::from_str::<Value>(variable(&printed, "OPENCODE_CONFIG_CONTENT")).unwrap()
    };
    let config = launch(&[("TOKENWEIR_API_KEY", KEY)]);
    assert_eq!((&config["model"], &config["small_model"]), (&json!("tokenweir/org/m"), &json!("tokenweir/org/m")));
    let provider = &config["provider"]["tokenweir"];
    let options = json!({"baseURL": format!("{url}/v1"), "apiKey": "{env:TOKENWEIR_API_KEY}"});
    assert_eq!(provider["options"], options);
    assert_eq!(provider["models"]["org/m"]["limit"], json!({"context": 200_000, "output": 32_000}));
    assert_eq!(launch(&[])["provider"]["tokenweir"]["options"]["apiKey"], "none");
}

#[test]
fn agent_takes_over_the_process_and_its_exit_code() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("process");
    for agent in AGENTS {
        let child = agents.launch(&[agent, "--url", &format!("http://{}", router.addr)]).spawn().unwrap();
        let expected = format!("pid={}\n", child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(7), expected), "{agent}");
    }
}

#[test]
fn printed_commands_start_the_agent_alike_and_hide_the_key() {
    let replica = start_replica(&["m"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("print");
    let url = format!("http://{}", router.addr);
    for agent in AGENTS {
        let args = ["--url", &url, "--context", "65536", "--", "two words", "$HOME", "it's"];
        let launch = |first: &[&str]| {
            let mut command = agents.launch(&[first, &args].concat());
            command.env("TOKENWEIR_API_KEY", KEY).env("ANTHROPIC_API_KEY", "other").output().unwrap()
        };
        let started = launch(&[agent]);
        let printed = stdout(&launch(&[agent, "--print"]));
        assert!(printed.contains(agent) && !printed.contains(KEY), "{printed}");
        let mut shell = agents.command("sh");
        shell.args(["-c", &printed]).env("TOKENWEIR_API_KEY", KEY).env("ANTHROPIC_API_KEY", "other");
        assert_eq!(stdout(&shell.output().unwrap()), stdout(&started), "{agent}");
    }
}

#[test]
fn model_must_be_named_if_the_router_lists_several() {
    let replica = start_replica(&["one", "two"]);
    let router = TestRouter::start_with_replicas([replica.url().as_str()]);
    let agents = AgentDir::create("models");
    let url = format!("http://{}", router.addr);
    let message = failure(&mut agents.launch(&["codex", "--url", &url]));
    assert!(message.contains("`--model`: one, two"), "{message}");
    let printed = stdout(&agents.launch(&["codex", "--url", &url, "--model", "two"]).output().unwrap());
    assert!(printed.contains("arg=model=\"two\"\n"), "{printed}");
    // The emulated replica's length, as the router lists it.
    assert!(printed.contains("arg=model_context_window=131072\n"), "{printed}");
}

#[test]
fn failures_name_the_cause_and_the_mend() {
    let replica = start_replica(&["m"]);
    let digest = ring::digest::digest(&ring::digest::SHA256, KEY.as_bytes());
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!("replicas = [{:?}]\n[[key]]\nname = \"k\"\nhash = \"sha256:{hash}\"\n", replica.url());
    let router = TestRouter::start(&config).wait_until_ready();
    let agents = AgentDir::create("failures");
    let url = format!("http://{}", router.addr);

    let message = failure(&mut agents.launch(&["claude", "--url", &url]));
    assert!(message.contains("needs an API key: set TOKENWEIR_API_KEY"), "{message}");
    let message = failure(agents.launch(&["claude", "--url", &url]).env("TOKENWEIR_API_KEY", "sk-wrong"));
    assert!(message.contains("refuses the API key in TOKENWEIR_API_KEY") && !message.contains("sk-wrong"), "{message}");
    let message = failure(&mut agents.launch(&["claude", "--url", &url, "--key-env", "NO_SUCH"]));
    assert!(message.contains("environment variable NO_SUCH"), "{message}");
    let message = failure(&mut agents.launch(&["claude", "--url", &format!("http://{}", unused_addr())]));
    assert!(message.contains("cannot reach the router") && message.contains("`--url`"), "{message}");
    let message = failure(&mut agents.launch(&["claude", "--url", &format!("http://{}", router.admin_addr)]));
    assert!(message.contains("is not a router"), "{message}");

    fs::remove_file(agents.0.join("codex")).unwrap();
    let message = failure(agents.launch(&["codex", "--url", &url]).env("TOKENWEIR_API_KEY", KEY));
    assert!(message.contains("`npm install -g @openai/codex` installs it"), "{message}");
}
