//! The handle of the running acceptor: replaces its listeners at a reload, and ends it.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use mio::Waker;

use super::bind::bind_listener;
use super::bound_listener::BoundListener;
use crate::routes::ListenAddr;
use crate::server::StartError;

/// Updates the acceptor. The acceptor ends when the handle is closed.
pub(in crate::server) struct ListenerHandle {
    /// Guards the sender, so that updates arrive in order; `None` once closed.
    sender: Mutex<Option<Sender<ListenerUpdate>>>,
    /// Kept until the acceptor has ended: dropped earlier, its last wake-up would be lost.
    waker: Waker,
}

/// The listeners from now on: present ones with their new configuration, and new ones.
pub(in crate::server) struct ListenerUpdate {
    pub(super) kept_addresses: Vec<ListenAddr>,
    pub(super) new_listeners: Vec<BoundListener>,
}

impl ListenerUpdate {
    /// Binds the addresses that are in `new` and not in `old`. No connection is accepted there before
    /// [`ListenerHandle::apply`].
    ///
    /// *Errors*: an address is in use or not permitted.
    pub(in crate::server) fn prepare(old: &[ListenAddr], new: &[ListenAddr]) -> Result<Self, StartError> {
        let is_old = |listen: &&ListenAddr| old.iter().any(|known| known.has_same_address(listen));
        let (kept, added): (Vec<&ListenAddr>, Vec<&ListenAddr>) = new.iter().partition(is_old);
        let new_listeners = added.into_iter().map(bind_listener).collect::<Result<_, _>>()?;
        Ok(Self { kept_addresses: kept.into_iter().cloned().collect(), new_listeners })
    }
}

impl ListenerHandle {
    pub(super) const fn new(sender: Sender<ListenerUpdate>, waker: Waker) -> Self {
        Self { sender: Mutex::new(Some(sender)), waker }
    }

    /// Sends a prepared update to the acceptor. Removed listeners are closed; their connections stay open.
    pub(in crate::server) fn apply(&self, update: ListenerUpdate) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // Both fail only if the acceptor has ended already.
            let _ = sender.send(update);
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
