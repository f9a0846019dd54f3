//! TODO-DOC

pub(super) mod glob;
pub(super) mod lexer;
pub(super) mod parser;
