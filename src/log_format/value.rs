//! Values of variables.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use super::record::CapturedFields;
use crate::http::find_cookie_variable;

/// The value of a variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VariableValue<'a> {
    Text(Cow<'a, [u8]>),
    Number(u64),
    /// Written in seconds with milliseconds, truncated as by nginx.
    Time(Duration),
}

/// `None` if the variable has no value.
pub(super) type OptionalValue<'a> = Option<VariableValue<'a>>;

/// The time from which a variable has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueAvailability {
    /// Once the request is routed, before a replica is chosen.
    AtChoice,
    /// Once a replica has been chosen.
    AtRequest,
    /// Once the response head is known.
    AtResponse,
    /// Once the request has ended.
    AtEnd,
}

pub(super) fn number<'a>(value: impl Into<u64>) -> OptionalValue<'a> {
    Some(VariableValue::Number(value.into()))
}

pub(super) fn text(value: &str) -> OptionalValue<'_> {
    Some(VariableValue::Text(value.as_bytes().into()))
}

pub(super) fn bytes<'a>(value: impl Into<Vec<u8>>) -> OptionalValue<'a> {
    Some(VariableValue::Text(Cow::Owned(value.into())))
}

/// Returns the value of a header; several values are joined as by nginx, cookies with semicolons.
pub(super) fn header_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> OptionalValue<'a> {
    join_header(headers, name).map(VariableValue::Text)
}

/// Returns the value of a cookie that the client sent, found as by nginx.
pub(super) fn cookie_value<'a>(captured: &'a CapturedFields, name: &str) -> OptionalValue<'a> {
    find_cookie_variable(&captured.request_headers, name).map(|value| VariableValue::Text(value.into()))
}

pub(super) fn join_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let separator = if *name == header::COOKIE { &b"; "[..] } else { b", " };
    Some(values.fold(Cow::Borrowed(first), |all, value| [&*all, separator, value.as_bytes()].concat().into()))
}
