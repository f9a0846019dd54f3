//! Changing what is listened at while the acceptor runs.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use mio::Waker;

use super::acceptor::{BoundListener, ListenerUpdate};
use super::bind::bind_listener;
use crate::config::ListenAddr;
use crate::server::StartError;

/// The way to the acceptor, which ends when this is closed.
pub(in crate::server) struct ListenerHandle {
    /// Guards what is sent, so that changes come in order.
    sender: Mutex<Option<Sender<ListenerUpdate>>>,
    /// Not closed before the acceptor has ended: what was told by it would be lost.
    waker: Waker,
}

impl ListenerHandle {
    pub(in crate::server) const fn new(sender: Sender<ListenerUpdate>, waker: Waker) -> Self {
        Self { sender: Mutex::new(Some(sender)), waker }
    }

    /// Binds what is in `new` and was not in `old`; nothing is accepted there before [`ListenerHandle::apply`].
    ///
    /// *Errors*: an address is taken or may not be used.
    pub(in crate::server) fn bind_new(old: &[ListenAddr], new: &[ListenAddr]) -> Result<ListenerUpdate, StartError> {
        let is_old = |listen: &&ListenAddr| old.iter().any(|known| known.has_same_address(listen));
        let (kept, fresh): (Vec<&ListenAddr>, Vec<&ListenAddr>) = new.iter().partition(is_old);
        let open = |listen: &ListenAddr| {
            bind_listener(listen).map(|(listener, _)| BoundListener { listen: listen.clone(), listener })
        };
        let opened = fresh.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(ListenerUpdate { kept_addresses: kept.into_iter().cloned().collect(), new_listeners: opened })
    }

    /// Listens as prepared. What is listened at no more is closed; its connections go on.
    pub(in crate::server) fn apply(&self, change: ListenerUpdate) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // Both fail only if the acceptor has ended already.
            let _ = sender.send(change);
            let _ = self.waker.wake();
        }
    }

    /// Ends the acceptor.
    pub(in crate::server) fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Fails only if the acceptor has ended already.
        let _ = self.waker.wake();
    }
}
