//! Errors in the text of a format.

use std::ops::Range;

use thiserror::Error;

use super::value::ValueAvailability;

/// A mistake in a format and its place. Spans are bytes of the text and include the `$`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogFormatError {
    /// No variable has this name.
    #[error("unknown variable `${name}`")]
    UnknownVariable {
        /// The name.
        name: String,
        /// The variable's place.
        span: Range<usize>,
    },
    /// The variable has no value yet when the text is rendered.
    #[error("`${name}` has no value yet {}", availability_text(*.availability))]
    NotYetAvailable {
        /// The name.
        name: String,
        /// The time at which the text is rendered.
        availability: ValueAvailability,
        /// The variable's place.
        span: Range<usize>,
    },
    /// A `$` without a name.
    #[error("a `$` needs the name of a variable")]
    MissingName {
        /// The place of the `$`.
        span: Range<usize>,
    },
    /// A `${` without its `}`.
    #[error("the closing bracket of `${{` is missing")]
    UnclosedBrace {
        /// The variable's place.
        span: Range<usize>,
    },
}

const fn availability_text(availability: ValueAvailability) -> &'static str {
    match availability {
        ValueAvailability::AtChoice => "when a replica is chosen",
        ValueAvailability::AtRequest => "when a request is sent to a replica",
        ValueAvailability::AtResponse => "when a response begins",
        ValueAvailability::AtEnd => "when a request ends",
    }
}
