//! The keys of `[[host]]` and `[[host.route]]`.

use std::path::PathBuf;

use http::HeaderValue;
use toml::de::DeValue;

use super::draft::{HostDraft, HostRouteDraft};
use crate::config::diagnostics::SpannedValue;
use crate::config::parse::value::{ReadResult, TomlValue};
use crate::config::schema::key_spec::{KeySpec, parse_file_path, parse_name, read_table, unknown_key};
use crate::config::schema::scope::rows::{
    CLIENT_ROW_COUNT, INNER_ROW_COUNT, MESSAGE_ROW_COUNT, client_rows, inner_scope_rows, message_rows,
};
use crate::routes::{Answer, AnswerError, HostListen, HostName, HostNameError, ListenError, PathMatch, PathMatchError};

/// The word after an address at which the host takes what no other host does.
const DEFAULT_WORD: &str = "default_server";

static HOST_SCHEMA: &[KeySpec<HostDraft>] = &[
    KeySpec {
        name: "name",
        expected: "host names without scheme and port, such as \"llm.example.com\", \"*.example.com\" or \"llm.*\"",
        default: "[]",
        doc: "The names in requests' `Host` that lead here, as nginx's `server_name`, and `\"\"` for requests without `Host`; \
              without any name, the requests that no other host of the address takes.",
        set: |d, v| v.map_list(|item| Ok(item.spanned(parse_host_name(item)?))).map(|names| d.names = names),
    },
    KeySpec {
        name: "listen",
        expected: "addresses as at the top, each with `default_server` behind it if it shall be so",
        default: "",
        doc: "The addresses of this host; without it, those at the top. With `default_server` it takes all requests at \
              the address that no other host takes.",
        set: |d, v| v.map_list(|item| Ok(item.spanned(parse_host_listen(item)?))).map(|listens| d.listens = listens),
    },
    KeySpec {
        name: "certificate",
        expected: "a PEM file, or a list of them",
        default: "[]",
        doc: "PEM files as in `[tls]`, for clients by TLS whose server name (SNI) leads to this host; without it, those of \
              `[tls]`, else those of the address's default host.",
        set: |d, v| {
            d.certificates.span.get_or_insert_with(|| v.span.clone());
            parse_pem_files(v).map(|files| d.certificates.chains = files)
        },
    },
    KeySpec {
        name: "key",
        expected: "a PEM file, or a list of them, one for each `certificate`",
        default: "[]",
        doc: "PEM files of the private keys, in the order of `certificate`.",
        set: |d, v| {
            d.certificates.span.get_or_insert_with(|| v.span.clone());
            parse_pem_files(v).map(|files| d.certificates.keys = files)
        },
    },
];

static ROUTE_KEYS: &[KeySpec<HostRouteDraft>] = &[
    KeySpec {
        name: "path",
        expected: "a path in the words of nginx's `location`: \"/v1/\", \"= /ping\", \"^~ /x\", \"~ ^/v[12]/\" or \"~* \\.php$\"",
        default: "",
        doc: "The paths of the route, compared as nginx compares them: an exact path first, then the first regular \
              expression in the file, then the longest prefix.",
        set: |d, v| parse_path_match(v).map(|path| d.path = Some(v.spanned(path))),
    },
    KeySpec {
        name: "pools",
        expected: "names of `[[pool]]`s",
        default: "",
        doc: "The pools that its requests go to; of several the model in the request selects one.",
        set: |d, v| v.map_list(|item| Ok(item.spanned(parse_name(item)?))).map(|pools| d.pools = Some(pools)),
    },
    KeySpec {
        name: "answer",
        expected: "the words of nginx's `return` such as \"403\", \"200 text\" or \"301 https://$host$request_uri\", or a table \
                   { status = 200, text = \"ok\", type = \"text/plain\" }",
        default: "",
        doc: "What the route answers without a replica; 444 closes the connection.",
        set: |d, v| parse_answer(v).map(|answer| d.answer = Some(v.spanned(answer))),
    },
    KeySpec {
        name: "replace_path",
        expected: "a path such as \"/v1/\"",
        default: "",
        doc: "The text that takes the place of the matched path in requests to the replicas, as the URI of nginx's \
              `proxy_pass`.",
        set: |d, v| parse_replacement(v).map(|path| d.replace_path = Some(v.spanned(path))),
    },
];

/// The tables of keys that a `[[host]]` may have.
pub(in crate::config) static HOST_TABLES: &[&[KeySpec<HostDraft>]] =
    &[HOST_SCHEMA, &HOST_CLIENT_ROWS, &HOST_MESSAGE_ROWS, &HOST_INNER_ROWS];
static HOST_CLIENT_ROWS: [KeySpec<HostDraft>; CLIENT_ROW_COUNT] = client_rows();
static HOST_MESSAGE_ROWS: [KeySpec<HostDraft>; MESSAGE_ROW_COUNT] = message_rows();
static HOST_INNER_ROWS: [KeySpec<HostDraft>; INNER_ROW_COUNT] = inner_scope_rows();

/// The tables of keys that a `[[host.route]]` may have.
pub(in crate::config) static ROUTE_TABLES: &[&[KeySpec<HostRouteDraft>]] =
    &[ROUTE_KEYS, &ROUTE_CLIENT_ROWS, &ROUTE_MESSAGE_ROWS, &ROUTE_INNER_ROWS];
static ROUTE_CLIENT_ROWS: [KeySpec<HostRouteDraft>; CLIENT_ROW_COUNT] = client_rows();
static ROUTE_MESSAGE_ROWS: [KeySpec<HostRouteDraft>; MESSAGE_ROW_COUNT] = message_rows();
static ROUTE_INNER_ROWS: [KeySpec<HostRouteDraft>; INNER_ROW_COUNT] = inner_scope_rows();

fn parse_pem_files(value: &TomlValue<'_>) -> ReadResult<Vec<SpannedValue<PathBuf>>> {
    value.map_list(|item| Ok(item.spanned(parse_file_path(item)?)))
}

fn parse_host_name(value: &TomlValue<'_>) -> ReadResult<HostName> {
    let text = value.string()?;
    text.parse().map_err(|error: HostNameError| {
        value.diagnostic(format!("`{text}` is no host name")).with_help(error.to_string()).into()
    })
}

/// Reads an address with `default_server` behind it or not.
fn parse_host_listen(value: &TomlValue<'_>) -> ReadResult<HostListen> {
    let text = match value.raw.as_integer() {
        Some(_) => value.integer(0)?.to_string().into(),
        None => value.string()?,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_default = words.iter().skip(1).any(|word| *word == DEFAULT_WORD);
    let address: Vec<&str> =
        words.iter().enumerate().filter(|(i, word)| *i == 0 || **word != DEFAULT_WORD).map(|(_, word)| *word).collect();
    let address = address.join(" ").parse().map_err(|error: ListenError| {
        vec![value.diagnostic(format!("cannot listen on `{text}`")).with_help(error.to_string())]
    })?;
    Ok(HostListen { address, is_default })
}

fn parse_path_match(value: &TomlValue<'_>) -> ReadResult<PathMatch> {
    let text = value.string()?;
    text.parse().map_err(|error: PathMatchError| {
        value.diagnostic(format!("`{}` cannot be `{text}`", value.key)).with_help(error.to_string()).into()
    })
}

fn parse_replacement(value: &TomlValue<'_>) -> ReadResult<String> {
    let text = value.string()?;
    let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
    if is_path { Ok(text.into_owned()) } else { Err(value.invalid()) }
}

/// An answer's table as far as it is read.
#[derive(Default)]
struct AnswerDraft {
    status: Option<u16>,
    text: String,
    content_type: Option<HeaderValue>,
}

static ANSWER_SCHEMA: &[KeySpec<AnswerDraft>] = &[
    KeySpec {
        name: "status",
        expected: "a status from 200 to 599",
        default: "",
        doc: "The status.",
        set: |d, v| v.integer(200).map(|status| d.status = u16::try_from(status).ok()),
    },
    KeySpec {
        name: "text",
        expected: "a text, with variables of `log_format`",
        default: "",
        doc: "The body.",
        set: |d, v| v.string().map(|text| d.text = text.into_owned()),
    },
    KeySpec {
        name: "type",
        expected: "a content type such as \"application/json\"",
        default: "\"text/plain\"",
        doc: "The `Content-Type`.",
        set: |d, v| {
            let content_type = HeaderValue::try_from(&*v.string()?).map_err(|_| v.invalid())?;
            d.content_type = Some(content_type);
            Ok(())
        },
    },
];

fn parse_answer(value: &TomlValue<'_>) -> ReadResult<Answer> {
    let explain = |error: AnswerError| vec![value.diagnostic("this is no answer").with_help(error.to_string())];
    match value.raw {
        DeValue::Table(_) => {
            let mut draft = AnswerDraft::default();
            let errors = read_table(ANSWER_SCHEMA, &value.entries()?, &mut draft, |key| {
                unknown_key(ANSWER_SCHEMA, "`answer`", key)
            });
            if !errors.is_empty() {
                return Err(errors);
            }
            let status = draft.status.ok_or(AnswerError::MissingStatus).map_err(explain)?;
            Answer::text(status, &draft.text, draft.content_type).map_err(explain)
        }
        DeValue::Integer(_) => {
            let status = u16::try_from(value.integer(200)?).map_err(|_| value.invalid())?;
            Answer::text(status, "", None).map_err(explain)
        }
        _ => Answer::parse(&value.string()?).map_err(explain),
    }
}
