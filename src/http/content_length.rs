//! `Content-Length`.

use http::HeaderMap;
use http::header::CONTENT_LENGTH;

/// Returns the length that `Content-Length` gives, in bytes; `None` if there is none or it is no number.
///
/// Takes digits only, so no sign. Source: RFC 9110, section 8.6.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_takes_digits_only() {
        let length = |text: &str| content_length(&HeaderMap::from_iter([(CONTENT_LENGTH, text.parse().unwrap())]));
        assert_eq!((length("0"), length("1048576")), (Some(0), Some(1 << 20)));
        assert_eq!(length(&u64::MAX.to_string()), Some(u64::MAX));
        for invalid in ["", "+5", "-1", "5, 5", "0x10", "18446744073709551616"] {
            assert_eq!(length(invalid), None, "{invalid}");
        }
        assert_eq!(content_length(&HeaderMap::new()), None);
    }
}
