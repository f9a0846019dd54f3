//! nginx's syntax: words, directives, blocks and included files.

pub(super) mod glob;
pub(super) mod lexer;
pub(super) mod parser;
