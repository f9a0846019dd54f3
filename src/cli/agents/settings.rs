//! What is set for an agent, and how it is written as shell commands.

use std::process::Command;

use super::target::ClientKey;

/// The environment and the arguments of an agent.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct AgentSettings {
    pub(super) variables: Vec<(String, EnvValue)>,
    /// Variables that would lead the agent elsewhere.
    pub(super) removed: &'static [&'static str],
    /// Arguments before the user's.
    pub(super) args: Vec<String>,
}

/// The value of a variable.
#[derive(Clone, Debug)]
pub(super) enum EnvValue {
    Text(String),
    /// The API key, which is never printed.
    Key(ClientKey),
}

impl AgentSettings {
    /// Returns the command that starts the agent with the user's arguments after ours.
    pub(in crate::cli) fn command(&self, program: &str, user_args: &[String]) -> Command {
        let mut command = Command::new(program);
        for name in self.removed {
            command.env_remove(name);
        }
        for (name, value) in &self.variables {
            command.env(
                name,
                match value {
                    EnvValue::Text(text) => text,
                    EnvValue::Key(key) => &key.value,
                },
            );
        }
        command.args(&self.args).args(user_args);
        command
    }

    /// Returns the same as commands of a POSIX shell. The key is a reference to its variable.
    pub(in crate::cli) fn shell_commands(&self, program: &str, user_args: &[String]) -> String {
        let mut lines = Vec::new();
        if !self.removed.is_empty() {
            lines.push(format!("unset {}", self.removed.join(" ")));
        }
        for (name, value) in &self.variables {
            lines.push(match value {
                EnvValue::Text(text) => format!("export {name}={}", quote_for_shell(text)),
                EnvValue::Key(key) => format!("export {name}=\"${}\"", key.env_name),
            });
        }
        let words = std::iter::once(program).chain(self.args.iter().chain(user_args).map(String::as_str));
        lines.push(words.map(quote_for_shell).collect::<Vec<_>>().join(" "));
        lines.join("\n")
    }
}

/// Returns a word as a POSIX shell reads it: in single quotes unless it is plain.
fn quote_for_shell(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_reads_quoted_words_as_they_were() {
        for word in ["", "plain-1.2/x:y=z", "two words", "it's", r#"{"a":"$HOME `x` \n"}"#, "a\nb", "'", "*"] {
            let script = format!("printf %s {}", quote_for_shell(word));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word, "{script}");
        }
    }
}
