//! Changing what is listened at while the acceptor runs.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use mio::Waker;

use super::StartError;
use super::acceptor::{Change, Door};
use super::bind::bind;
use crate::config::Listen;

/// The way to the acceptor, which ends when this is closed.
pub(super) struct Doors {
    /// Guards what is sent, so that changes come in order.
    way: Mutex<Option<Sender<Change>>>,
    /// Not closed before the acceptor has ended: what was told by it would be lost.
    waker: Waker,
}

impl Doors {
    pub(super) const fn new(sender: Sender<Change>, waker: Waker) -> Self {
        Self { way: Mutex::new(Some(sender)), waker }
    }

    /// Binds what is in `new` and was not in `old`; nothing is accepted there before [`Doors::change`].
    ///
    /// *Errors*: an address is taken or may not be used.
    pub(super) fn prepare(old: &[Listen], new: &[Listen]) -> Result<Change, StartError> {
        let is_old = |listen: &&Listen| old.iter().any(|known| known.is_at(listen));
        let (kept, fresh): (Vec<&Listen>, Vec<&Listen>) = new.iter().partition(is_old);
        let open = |listen: &Listen| bind(listen).map(|(listener, _)| Door { listen: listen.clone(), listener });
        let opened = fresh.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Change { kept: kept.into_iter().cloned().collect(), opened })
    }

    /// Listens as prepared. What is listened at no more is closed; its connections go on.
    pub(super) fn change(&self, change: Change) {
        if let Some(sender) = &*self.way.lock().unwrap_or_else(PoisonError::into_inner) {
            // Both fail only if the acceptor has ended already.
            let _ = sender.send(change);
            let _ = self.waker.wake();
        }
    }

    /// Ends the acceptor.
    pub(super) fn close(&self) {
        drop(self.way.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Fails only if the acceptor has ended already.
        let _ = self.waker.wake();
    }
}
