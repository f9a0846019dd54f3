//! What a request is known by to its pool's policy.

use http::HeaderMap;

use super::proxy::Trip;
use super::story::Story;
use crate::balance::{Key, Part};

const X_SESSION_ID: &str = "x-session-id";

/// The values of a key's variables in a row; what a request does not have is empty, as in nginx.
pub(super) fn evaluate(key: &Key, trip: &Trip<'_>, story: &Story) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    for part in key.parts() {
        match part {
            Part::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Part::RequestUri => {
                bytes.extend_from_slice(trip.head.uri.path_and_query().map_or("", |uri| uri.as_str()).as_bytes());
            }
            Part::RemoteAddr => bytes.extend_from_slice(story.peer.text().as_bytes()),
            Part::Header(name) => header(&trip.head.headers, name, &mut bytes),
            Part::Model => bytes.extend_from_slice(trip.asked.model.as_deref().unwrap_or_default().as_bytes()),
            Part::User => bytes.extend_from_slice(trip.asked.user.as_deref().unwrap_or_default().as_bytes()),
            Part::Session => session(trip, &mut bytes),
        }
    }
    bytes
}

fn session(trip: &Trip<'_>, bytes: &mut Vec<u8>) {
    let asked = trip.asked;
    let given =
        |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
    let from_header = || {
        let mut value = Vec::new();
        header(&trip.head.headers, X_SESSION_ID, &mut value);
        Some(value).filter(|value| !value.is_empty())
    };
    let opening = || asked.opening.map(|hash| format!("{hash:016x}").into_bytes());
    let session = given(&asked.cache_key).or_else(from_header).or_else(|| given(&asked.user)).or_else(opening);
    bytes.extend(session.unwrap_or_default());
}

/// All values of a header, joined by `, ` as in nginx since 1.23.
fn header(headers: &HeaderMap, name: &str, bytes: &mut Vec<u8>) {
    for (at, value) in headers.get_all(name).iter().enumerate() {
        if at > 0 {
            bytes.extend_from_slice(b", ");
        }
        bytes.extend_from_slice(value.as_bytes());
    }
}
