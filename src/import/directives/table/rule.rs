//! A row of the table.

use super::contexts::DirectiveContexts;
use crate::import::blocks::BlockScope;
use crate::import::context::ImportContext;
use crate::import::guard::GuardRule;
use crate::import::report::RemarkKind;
use crate::import::syntax::directive::Directive;

/// What the import does with a directive.
pub(in crate::import) enum DirectiveRule {
    /// A function converts it.
    Handler(fn(&mut ImportContext, &Directive)),
    /// Its block is read. `open` returns the block's kind, or `None` if the block is not read.
    Block { open: fn(&mut ImportContext, &Directive) -> Option<BlockScope>, close: fn(&mut ImportContext, &Directive) },
    /// It is the duration of this key; the longest of several wins.
    Duration(&'static str),
    /// It is left out with a remark of this kind: it refuses no request and leads none elsewhere.
    Harmless(RemarkKind, &'static str),
    /// It stops the import where it is in force for requests that reach replicas.
    Guard(GuardRule),
    /// It answers the requests of a location, for this reason not in the router.
    ContentHandler(&'static str),
    /// It is an `if` or a `limit_except`.
    Condition,
}

/// A row of the table: names separated by spaces, the blocks in which they may be, and their rule. A `*` at the start
/// or end of a name matches any text.
pub(super) type DirectiveRow = (&'static str, DirectiveContexts, DirectiveRule);
