//! How long a prompt is, before anybody has counted.

use super::Text;
use crate::units::Tokens;

/// Bytes of prompt text, as written in JSON, taken for one token.
const BYTES_PER_TOKEN: u64 = 4;

/// Guesses the prompt's length: a token for every four bytes of what is prompt in the body, rounded up.
///
/// *Rough*: English prose has 4 to 5 bytes a token, Chinese 3 to 4, and the JSON around the text counts as text; an
/// array of token ids is overestimated by up to two times, an image or sound given inline by far more. O(1).
pub fn rough(text: &Text<'_>) -> Tokens {
    let parts = [text.messages, text.prompt, text.input, text.tools, text.system, text.instructions];
    let bytes: usize = parts.into_iter().flatten().map(|part| part.get().len()).sum();
    Tokens((bytes as u64).div_ceil(BYTES_PER_TOKEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Request;

    #[test]
    fn four_bytes_of_any_prompt_member_are_a_token() {
        let tokens = |body: &str| rough(&Request::parse(body.as_bytes()).unwrap().text);
        assert_eq!(tokens(r#"{"prompt":"abcdef"}"#), Tokens(2));
        assert_eq!(tokens(r#"{"prompt":"abcdefg"}"#), Tokens(3));
        assert_eq!(
            tokens(r#"{"messages":[1],"tools":[],"system":"","input":"ab","instructions":"","x":"aaaa"}"#),
            Tokens(4)
        );
        assert_eq!(tokens(r#"{"prompt":null}"#), Tokens(0));
    }
}
