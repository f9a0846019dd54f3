//! The blocks in which a directive may be.

use crate::import::blocks::BlockScope;

/// A set of kinds of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) struct DirectiveContexts(u16);

pub(super) const MAIN: DirectiveContexts = DirectiveContexts(1);
pub(super) const EVENTS: DirectiveContexts = DirectiveContexts(1 << 1);
pub(super) const HTTP: DirectiveContexts = DirectiveContexts(1 << 2);
pub(super) const UPSTREAM: DirectiveContexts = DirectiveContexts(1 << 3);
pub(super) const SERVER: DirectiveContexts = DirectiveContexts(1 << 4);
pub(super) const LOCATION: DirectiveContexts = DirectiveContexts(1 << 5);
/// `if` in a server.
pub(super) const SERVER_IF: DirectiveContexts = DirectiveContexts(1 << 6);
/// `if` in a location.
pub(super) const LOCATION_IF: DirectiveContexts = DirectiveContexts(1 << 7);
pub(super) const LIMIT_EXCEPT: DirectiveContexts = DirectiveContexts(1 << 8);

pub(super) const HTTP_SERVER: DirectiveContexts = HTTP.or(SERVER);
pub(super) const SERVER_LOCATION: DirectiveContexts = SERVER.or(LOCATION);
/// `http`, `server` and `location`: most directives.
pub(super) const LEVELS: DirectiveContexts = HTTP_SERVER.or(LOCATION);
pub(super) const LEVELS_AND_IF: DirectiveContexts = LEVELS.or(LOCATION_IF);

/// Each kind of block and its name in messages.
const CONTEXT_NAMES: [(DirectiveContexts, &str); 9] = [
    (MAIN, "the top of the file"),
    (EVENTS, "`events`"),
    (HTTP, "`http`"),
    (UPSTREAM, "`upstream`"),
    (SERVER, "`server`"),
    (LOCATION, "`location`"),
    (SERVER_IF, "`if` of a server"),
    (LOCATION_IF, "`if` of a location"),
    (LIMIT_EXCEPT, "`limit_except`"),
];

impl DirectiveContexts {
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether a directive may be in a block. A file without `http` has its directives at the top.
    pub(in crate::import) const fn allows(self, scope: BlockScope) -> bool {
        match scope {
            BlockScope::Main => self.contains(MAIN) || self.contains(HTTP),
            BlockScope::Events => self.contains(EVENTS),
            BlockScope::Http => self.contains(HTTP),
            BlockScope::Upstream => self.contains(UPSTREAM),
            BlockScope::Server => self.contains(SERVER),
            BlockScope::Location => self.contains(LOCATION),
        }
    }

    /// Returns whether a directive may be in an `if` or a `limit_except` of a block.
    pub(in crate::import) const fn allows_in_condition(self, block: &str, scope: BlockScope) -> bool {
        match (block.as_bytes(), scope) {
            (b"limit_except", _) => self.contains(LIMIT_EXCEPT),
            (_, BlockScope::Server) => self.contains(SERVER_IF),
            _ => self.contains(LOCATION_IF),
        }
    }

    /// Returns the names of the blocks, for messages.
    pub(in crate::import) fn describe(self) -> String {
        let names = CONTEXT_NAMES.iter().filter(|(context, _)| self.contains(*context));
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => "no block".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_of_the_file_stands_for_http() {
        assert!(HTTP.allows(BlockScope::Main) && !UPSTREAM.allows(BlockScope::Main) && !MAIN.allows(BlockScope::Http));
    }

    #[test]
    fn blocks_are_named_in_messages() {
        assert_eq!(LEVELS.describe(), "`http`, `server` and `location`");
        assert_eq!(UPSTREAM.describe(), "`upstream`");
    }
}
