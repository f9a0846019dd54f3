//! Values as TOML.

/// Returns `text` as a quoted string.
pub(super) fn quote_toml(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns nginx's duration as a quoted string. A bare number is seconds in both languages and gets its unit.
pub(super) fn quote_duration(text: &str) -> String {
    let unit = if text.ends_with(|c: char| c.is_ascii_digit()) { "s" } else { "" };
    quote_toml(&format!("{text}{unit}"))
}

/// Returns texts as a list of quoted strings.
pub(super) fn quote_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote_toml(text)).collect();
    format!("[{}]", quoted.join(", "))
}
