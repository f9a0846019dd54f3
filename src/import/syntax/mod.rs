//! nginx's syntax: words, directives, blocks and included files.

pub(super) mod directive;
mod glob;
mod lexer;
pub(super) mod parser;
