//! Request bodies: parsed or refused, edited in one member only, and measured independently of their JSON spelling.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenweir::dialect::PromptPart;
use tokenweir::prompt::{
    BodyEdit, ParsedBody, PromptMembers, PromptPiece, TextStats, conversation_hash, fingerprint_and_count,
    for_each_piece, splice,
};

fuzz_target!(|body: &[u8]| {
    check_splice(body);
    let json = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    match ParsedBody::parse(body) {
        Ok(request) => {
            assert!(serde_json::from_slice::<&RawValue>(body).is_ok());
            check_edits(body, &request, json);
            check_spellings(body, &request.prompt);
        }
        Err(error) => match (json, error.param) {
            (None, _) => {}
            (Some(json), Some("model")) => assert!(!json["model"].is_string() && !json["model"].is_null()),
            (Some(json), Some("stream")) => assert!(!json["stream"].is_boolean() && !json["stream"].is_null()),
            (Some(_), _) => assert!(error.message.contains("duplicate member `model`"), "{error}"),
        },
    }
});

/// Checks that edits change only their members. `json` is the body as serde_json parses it; `None` for numbers above 1e308
/// or a depth above 128.
fn check_edits(body: &[u8], request: &ParsedBody<'_>, json: Option<Value>) {
    const NAME: &str = "n\"\\\u{e9}";
    let (mut edits, mut json) = (Vec::new(), json);
    if let Some(model) = &request.model {
        edits.push(model.replacement(NAME));
        json.iter_mut().for_each(|json| json["model"] = NAME.into());
    }
    if let Some(edit) = request.usage_edit() {
        edits.push(edit);
        json.iter_mut().for_each(|json| match &mut json["stream_options"] {
            Value::Object(options) => drop(options.insert("include_usage".to_owned(), true.into())),
            other => *other = json!({"include_usage": true}),
        });
    }
    let is_added = edits.len() > usize::from(request.model.is_some());
    let new = apply_edits(&Bytes::copy_from_slice(body), edits).expect("edits of one body fit each other");
    if let Some(json) = json.filter(|_| !contains(body, b"$serde_json::private")) {
        assert_eq!(serde_json::from_slice::<Value>(&new).expect("the edited body is JSON"), json);
    }
    let again = ParsedBody::parse(&new).expect("the edited body is a request");
    assert_eq!(again.is_usage_requested(), request.is_usage_requested() || is_added);
    assert_eq!(again.model.map(|model| model.name), request.model.as_ref().map(|_| NAME.into()));
    assert_eq!(
        (again.stream, again.max_output, again.choice_count),
        (request.stream, request.max_output, request.choice_count)
    );
    assert_eq!(
        (again.affinity_hints, pieces(&again.prompt)),
        (request.affinity_hints.clone(), pieces(&request.prompt))
    );
    assert_eq!(conversation_hash(&again.prompt), conversation_hash(&request.prompt));
}

/// Compares two edits, at positions from the input, with the same edits by copying.
fn check_splice(body: &[u8]) {
    let [a, b, c, d, body @ ..] = body else { return };
    let [a, b, c, d] = [a, b, c, d].map(|at| usize::from(at % 16));
    let wanted = (a <= b && b <= c && c <= d && d <= body.len())
        .then(|| [&body[..a], b"<1>", &body[b..c], b"<2>", &body[d..]].concat());
    let edits = vec![BodyEdit::replace(a..b, "<1>"), BodyEdit::replace(c..d, "<2>")];
    let done = apply_edits(&Bytes::copy_from_slice(body), edits);
    // Edits in the other order fit as well.
    assert!(wanted.is_none() || done == wanted);
    let fits = |from: usize, to: usize| from <= to && to <= body.len();
    assert!(done.is_none() || fits(a, b) && fits(c, d) && (b <= c || d <= a));
}

/// Applies the edits; `None` if they do not fit.
fn apply_edits(body: &Bytes, edits: Vec<BodyEdit>) -> Option<Vec<u8>> {
    let pieces = splice(body, edits).ok()?;
    let bytes = pieces.len_bytes();
    let all: Vec<u8> = pieces.into_iter().flatten().collect();
    assert_eq!(all.len(), bytes);
    Some(all)
}

/// Checks the same request with whitespace, and with escaped characters.
fn check_spellings(body: &[u8], text: &PromptMembers<'_>) {
    let body = std::str::from_utf8(body).expect("it was parsed");
    let spaced = respell(body, |c| c.to_string());
    let spaced = ParsedBody::parse(spaced.as_bytes()).expect("blanks do not matter").prompt;
    let (stats, prefix) = fingerprint_and_count(text, &["m"]);
    assert_eq!(fingerprint_and_count(&spaced, &["m"]).1, prefix);
    let escaped = respell(body, |c| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect());
    let escaped = ParsedBody::parse(escaped.as_bytes()).expect("escapes do not matter").prompt;
    for other in [spaced, escaped] {
        assert_eq!(pieces(&other), pieces(text));
        // Tools are counted as written.
        assert!(
            text.find(PromptPart::Tools).is_some() || TextStats::from_prompt(&other) == stats,
            "{stats:?} {:?}",
            TextStats::from_prompt(&other)
        );
    }
}

/// Returns the JSON with blanks wherever they are allowed, and every unescaped character of its strings as `put` writes it.
fn respell(json: &str, put: impl Fn(char) -> String) -> String {
    let (mut out, mut quoted) = (String::new(), false);
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escape_len = if chars.as_str().starts_with('u') { 5 } else { 1 };
                out.push(c);
                out.extend(chars.by_ref().take(escape_len));
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

/// Returns the decoded pieces of a prompt, adjacent text joined.
fn pieces(text: &PromptMembers<'_>) -> Vec<(u8, String)> {
    let mut all: Vec<(u8, String)> = Vec::new();
    // A string with half a surrogate pair counts as empty, however it is written.
    let decode = |written: &str| serde_json::from_str(&format!("\"{written}\"")).unwrap_or_else(|_| String::new());
    for_each_piece(text, |piece| match (piece, all.last_mut()) {
        (PromptPiece::Text(text), Some((0, before))) => before.push_str(text),
        (PromptPiece::Text(text), _) => all.push((0, text.to_owned())),
        (PromptPiece::Turn(role), _) => all.push((1, decode(role))),
        (PromptPiece::Tools(tools), _) => {
            all.push((
                2,
                serde_json::from_str::<Value>(tools).map_or_else(|_| String::new(), |tools| tools.to_string()),
            ));
        }
        (PromptPiece::TokenId(id), _) => all.push((3, id.to_owned())),
        (PromptPiece::Media(media, source), _) => all.push((4, format!("{media:?} {}", decode(source)))),
    });
    all
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|at| at == word)
}
