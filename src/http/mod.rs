//! Layer 1: HTTP header fields and paths. Each is read in one place, and every other room calls it.
//!
//! Types such as `HeaderMap` come from the crate `http`; this room is always written `crate::http`.

mod content_coding;
mod content_length;
mod content_type;
mod cookie;
mod forwarded_addr;
mod framing_scanner;
mod host;
mod path;
mod query;
mod status;

pub use content_coding::{ContentCodings, DecodeError};
pub use content_length::content_length;
pub use content_type::{has_media_type, is_event_stream, is_json, is_media_type};
pub use cookie::{find_cookie, find_cookie_variable, find_set_cookie};
pub use forwarded_addr::{forwarded_addrs, parse_forwarded_addr};
pub use framing_scanner::FramingScanner;
pub use host::{MalformedHost, request_host};
pub use path::{is_resolvable_path, normalize_path, percent_decode};
pub use query::{query_value, with_query_value};
pub use status::StatusMeaning;
