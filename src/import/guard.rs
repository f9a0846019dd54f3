//! Directives that keep requests from replicas.

use super::syntax::directive::Directive;

/// Why a directive stops the import where it is in force for requests that reach replicas.
pub(super) struct GuardRule {
    /// First arguments with which it refuses nothing.
    pub(super) neutral: &'static [&'static str],
    pub(super) reason: &'static str,
}

/// A directive that keeps requests from replicas, in its block.
#[derive(Clone)]
pub(super) struct BlockGuard {
    pub(super) directive: Directive,
    pub(super) rule: &'static GuardRule,
}

impl BlockGuard {
    /// Returns whether it refuses nothing.
    pub(super) fn is_neutral(&self) -> bool {
        self.rule.neutral.contains(&self.directive.arg(0))
    }
}
