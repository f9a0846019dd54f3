//! The tool call that a request asks for.

use serde_json::Value;

/// Characters of written arguments that count as a token.
pub(in crate::emulate) const CHARS_PER_TOKEN: usize = 4;
/// Precedes a tool's name and its arguments, in the last message of a user.
const MARKER: &str = "emulate-tool-call:";

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::emulate) struct ToolCall {
    pub(in crate::emulate) name: String,
    /// The arguments as JSON; `None` for filler as long as the answer.
    pub(in crate::emulate) arguments: Option<String>,
    /// Whether the model chose to call a tool; false if the request named the tool to call.
    pub(in crate::emulate) is_models_choice: bool,
}

impl ToolCall {
    /// Returns the call that the last message describes, else the one that `tool_choice` demands.
    pub(super) fn find(body: &Value) -> Option<Self> {
        find_marked(body).or_else(|| find_demanded(body))
    }

    /// Returns the number of tokens of written arguments.
    pub(super) fn written_tokens(&self) -> Option<u64> {
        let arguments = self.arguments.as_ref()?;
        Some(arguments.chars().count().div_ceil(CHARS_PER_TOKEN).max(1) as u64)
    }
}

/// Returns the call in a line `emulate-tool-call: NAME ARGUMENTS` of the last message, if that is a user's and NAME is
/// one of the request's tools.
fn find_marked(body: &Value) -> Option<ToolCall> {
    let messages = body.get("messages").or_else(|| body.get("input"))?;
    let last = messages.as_array()?.last()?;
    if last.get("role").and_then(Value::as_str) != Some("user") {
        return None;
    }
    let content = last.get("content")?;
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut texts = content.as_str().into_iter().chain(parts.iter().filter_map(|part| part.get("text")?.as_str()));
    let (name, arguments) = texts.find_map(parse_marker)?;
    let is_offered = body.get("tools")?.as_array()?.iter().any(|tool| tool_name(tool) == Some(name));
    is_offered.then(|| ToolCall {
        name: name.to_owned(),
        arguments: Some(arguments.to_owned()),
        is_models_choice: true,
    })
}

fn parse_marker(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(MARKER)?;
    let (name, arguments) = rest.lines().next()?.trim().split_once(' ')?;
    let arguments = arguments.trim();
    serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object)?;
    Some((name, arguments))
}

/// Returns the function that `tool_choice` names, or the first one if any will do.
fn find_demanded(body: &Value) -> Option<ToolCall> {
    let choice = body.get("tool_choice")?;
    let is_free = [choice.as_str(), choice.get("type").and_then(Value::as_str)]
        .iter()
        .any(|word| matches!(word, Some("required" | "any")));
    let tool = if is_free { body.get("tools")?.get(0)? } else { choice };
    Some(ToolCall { name: tool_name(tool)?.to_owned(), arguments: None, is_models_choice: is_free })
}

/// Returns the name of a tool, or of the tool that an object of `tool_choice` names.
fn tool_name(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name").or_else(|| tool.get("name"))?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: Option<&str>, is_models_choice: bool) -> Option<ToolCall> {
        Some(ToolCall { name: name.to_owned(), arguments: arguments.map(str::to_owned), is_models_choice })
    }

    #[test]
    fn marker_of_the_last_message_names_tool_and_arguments() {
        let text = "do it\nemulate-tool-call: sh {\"cmd\": \"ls\"} \nplease";
        let expected = call("sh", Some(r#"{"cmd": "ls"}"#), true);
        let chat_tools = json!([{"type": "function", "function": {"name": "sh"}}]);
        let flat_tools = json!([{"name": "other"}, {"name": "sh"}]);
        let user = json!({"role": "user", "content": text});
        let parts = json!({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": text}]});
        assert_eq!(ToolCall::find(&json!({"messages": [user], "tools": chat_tools})), expected);
        assert_eq!(ToolCall::find(&json!({"messages": [parts], "tools": flat_tools})), expected);
        assert_eq!(ToolCall::find(&json!({"input": [parts], "tools": flat_tools, "tool_choice": "auto"})), expected);

        let result = json!({"role": "tool", "content": text});
        assert_eq!(ToolCall::find(&json!({"messages": [user, result], "tools": chat_tools})), None);
        assert_eq!(ToolCall::find(&json!({"messages": [user], "tools": [{"name": "other"}]})), None);
        assert_eq!(ToolCall::find(&json!({"messages": [user]})), None);
        let broken = json!({"role": "user", "content": "emulate-tool-call: sh {"});
        assert_eq!(ToolCall::find(&json!({"messages": [broken], "tools": chat_tools})), None);
    }

    #[test]
    fn demanded_tool_is_found_in_every_dialect() {
        let chat = json!({"tools": [{"function": {"name": "a"}}], "tool_choice": "required"});
        assert_eq!(ToolCall::find(&chat), call("a", None, true));
        let messages = json!({"tools": [{"name": "a"}], "tool_choice": {"type": "any"}});
        assert_eq!(ToolCall::find(&messages), call("a", None, true));
        let chat = json!({"tool_choice": {"type": "function", "function": {"name": "b"}}});
        assert_eq!(ToolCall::find(&chat), call("b", None, false));
        let messages = json!({"tool_choice": {"type": "tool", "name": "b"}});
        assert_eq!(ToolCall::find(&messages), call("b", None, false));
        assert_eq!(ToolCall::find(&json!({"tools": [{"name": "a"}], "tool_choice": "auto"})), None);
        assert_eq!(ToolCall::find(&json!({"tools": [{"name": "a"}], "tool_choice": {"type": "auto"}})), None);
    }

    #[test]
    fn written_arguments_have_a_token_per_four_characters() {
        let tokens = |arguments: &str| call("sh", Some(arguments), true).unwrap().written_tokens();
        assert_eq!((tokens("{}"), tokens("{\"a\":1}"), tokens("{\"a\":12}")), (Some(1), Some(2), Some(2)));
        assert_eq!(call("sh", None, true).unwrap().written_tokens(), None);
    }
}
