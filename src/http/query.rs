//! The query of a request target.

use super::path::percent_decode;

/// Returns the value of the first parameter `name`, decoded; `None` without it, or if it is not UTF-8.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    String::from_utf8(percent_decode(value.as_bytes())).ok()
}

/// Returns `target` with `value` in place of that of the first query parameter `name`; unchanged without it.
pub fn with_query_value(target: &str, name: &str, value: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let mut is_replaced = false;
    let pairs = query.split('&').map(|pair| {
        let is_it = !is_replaced && pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        is_replaced |= is_it;
        if is_it { format!("{name}={}", percent_encode(value)) } else { pair.to_owned() }
    });
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn percent_encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_of_a_parameter_is_read_and_replaced() {
        assert_eq!(query_value("a=1&model=org%2Fm%201&model=x", "model").as_deref(), Some("org/m 1"));
        assert_eq!(query_value("models=1&amodel=2&model", "model"), None);
        assert_eq!(query_value("model=%ff", "model"), None);
        assert_eq!(with_query_value("/v1/x?a=1&model=m&b", "model", "o/n&é"), "/v1/x?a=1&model=o/n%26%C3%A9&b");
        assert_eq!(with_query_value("/v1/x?a=1", "model", "n"), "/v1/x?a=1");
        assert_eq!(with_query_value("/v1/x", "model", "n"), "/v1/x");
    }
}
