//! A request's body is read or refused and never anything else; an edit changes its member and nothing besides; how a
//! prompt is spelled does not matter.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenweir::prompt::{conversation_hash, pieces, splice, survey, Census, Edit, Piece, Request, Text};

fuzz_target!(|body: &[u8]| {
    spliced(body);
    let json = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    match Request::parse(body) {
        Ok(request) => {
            assert!(serde_json::from_slice::<&RawValue>(body).is_ok());
            edited(body, &request, json);
            spelled(body, &request.text);
        }
        Err(bad) => match (json, bad.param) {
            (None, _) => {}
            (Some(json), Some("model")) => assert!(!json["model"].is_string() && !json["model"].is_null()),
            (Some(json), Some("stream")) => assert!(!json["stream"].is_boolean() && !json["stream"].is_null()),
            (Some(_), _) => assert!(bad.message.contains("duplicate member `model`"), "{bad}"),
        },
    }
});

/// `json`: the same body by serde_json, which knows no numbers above 1e308 and no depth above 128.
fn edited(body: &[u8], request: &Request<'_>, json: Option<Value>) {
    const NAME: &str = "n\"\\\u{e9}";
    let (mut edits, mut json) = (Vec::new(), json);
    if let Some(model) = &request.model {
        edits.push(model.rename(NAME));
        json.iter_mut().for_each(|json| json["model"] = NAME.into());
    }
    if let Some(edit) = request.ask_for_usage() {
        edits.push(edit);
        json.iter_mut().for_each(|json| match &mut json["stream_options"] {
            Value::Object(options) => drop(options.insert("include_usage".to_owned(), true.into())),
            other => *other = json!({"include_usage": true}),
        });
    }
    let asks = edits.len() > usize::from(request.model.is_some());
    let new = joined(&Bytes::copy_from_slice(body), edits).expect("edits of one body fit each other");
    if let Some(json) = json.filter(|_| !has(body, b"$serde_json::private")) {
        assert_eq!(serde_json::from_slice::<Value>(&new).expect("it is JSON still"), json);
    }
    let again = Request::parse(&new).expect("it is a request still");
    assert_eq!(again.wants_usage(), request.wants_usage() || asks);
    assert_eq!(again.model.map(|model| model.name), request.model.as_ref().map(|_| NAME.into()));
    assert_eq!((again.stream, again.max_output, again.n), (request.stream, request.max_output, request.n));
    assert_eq!((again.keys, pieces(&again.text)), (request.keys.clone(), pieces(&request.text)));
    assert_eq!(opening(&again.text), opening(&request.text));
}

/// Two edits at places that the bytes name, against the same done by copying.
fn spliced(body: &[u8]) {
    let [a, b, c, d, body @ ..] = body else { return };
    let [a, b, c, d] = [a, b, c, d].map(|at| usize::from(at % 16));
    let wanted = (a <= b && b <= c && c <= d && d <= body.len())
        .then(|| [&body[..a], b"<1>", &body[b..c], b"<2>", &body[d..]].concat());
    let edits = vec![Edit::replace(a..b, "<1>"), Edit::replace(c..d, "<2>")];
    let done = joined(&Bytes::copy_from_slice(body), edits);
    // Edits in the other order fit as well.
    assert!(wanted.is_none() || done == wanted);
    let fits = |from: usize, to: usize| from <= to && to <= body.len();
    assert!(done.is_none() || fits(a, b) && fits(c, d) && (b <= c || d <= a));
}

fn joined(body: &Bytes, edits: Vec<Edit>) -> Option<Vec<u8>> {
    let pieces = splice(body, edits).ok()?;
    let bytes = pieces.len_bytes();
    let all: Vec<u8> = pieces.into_iter().flatten().collect();
    assert_eq!(all.len(), bytes);
    Some(all)
}

/// The same request in other words: with blanks, and with characters as escapes.
fn spelled(body: &[u8], text: &Text<'_>) {
    let body = std::str::from_utf8(body).expect("it was parsed");
    let spaced = spell(body, |c| c.to_string());
    let spaced = Request::parse(spaced.as_bytes()).expect("blanks are nothing").text;
    let (census, prefix) = survey(text, &["m"]);
    assert_eq!(survey(&spaced, &["m"]).1, prefix);
    let escaped = spell(body, |c| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect());
    let escaped = Request::parse(escaped.as_bytes()).expect("escapes are nothing").text;
    for other in [spaced, escaped] {
        assert_eq!(pieces(&other), pieces(text));
        // Tools are counted as they are written.
        assert!(text.tools.is_some() || Census::of(&other) == census, "{census:?} {:?}", Census::of(&other));
    }
}

/// The JSON with blanks wherever they may be, and every character of its strings that is not part of an escape as `put`
/// puts it.
fn spell(json: &str, put: impl Fn(char) -> String) -> String {
    let (mut out, mut quoted) = (String::new(), false);
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let behind = if chars.as_str().starts_with('u') { 5 } else { 1 };
                out.push(c);
                out.extend(chars.by_ref().take(behind));
            }
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            _ if quoted => out.push_str(&put(c)),
            '{' | '}' | '[' | ']' | ':' | ',' => out.extend([' ', c, '\n', '\t']),
            _ => out.push(c),
        }
    }
    out
}

/// What a prompt is made of, whatever it is written like; text that comes in several pieces is one.
fn pieces(text: &Text<'_>) -> Vec<(u8, String)> {
    let mut all: Vec<(u8, String)> = Vec::new();
    // What has half a character in it is no text, however it is written.
    let said = |written: &str| serde_json::from_str(&format!("\"{written}\"")).unwrap_or_else(|_| String::new());
    walk(text, |piece| match (piece, all.last_mut()) {
        (Piece::Text(text), Some((0, before))) => before.push_str(text),
        (Piece::Text(text), _) => all.push((0, text.to_owned())),
        (Piece::Turn(whose), _) => all.push((1, said(whose))),
        (Piece::Tools(tools), _) => {
            all.push((
                2,
                serde_json::from_str::<Value>(tools).map_or_else(|_| String::new(), |tools| tools.to_string()),
            ));
        }
        (Piece::Token(id), _) => all.push((3, id.to_owned())),
        (Piece::Media(media, source), _) => all.push((4, format!("{media:?} {}", said(source)))),
    });
    all
}

fn has(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|at| at == word)
}
