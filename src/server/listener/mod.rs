//! TODO-DOC

pub(super) mod acceptor;
pub(super) mod bind;
pub(super) mod handle;
