//! The event that began in an earlier chunk and has not ended, in bounded memory.

/// Bytes kept from the start of an event; a longer event is kept in two parts.
pub const HEAD_BYTES: usize = 16 * 1024;

/// Bytes kept from the end of an event longer than [`HEAD_BYTES`].
pub const TAIL_BYTES: usize = 4 * 1024;

/// A buffer larger than this is shrunk after the event that needed it.
pub(super) const MAX_IDLE_CAPACITY_BYTES: usize = 4 * 1024;

/// The kept bytes of an unfinished event; empty between events.
#[derive(Debug, Default)]
pub(super) struct PartialEvent {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl PartialEvent {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Returns the first [`HEAD_BYTES`], and the last [`TAIL_BYTES`] of an event longer than that.
    pub(super) fn head_and_tail(&self) -> (&[u8], &[u8]) {
        (&self.head, self.tail.get(self.tail.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        if rest.is_empty() {
            return;
        }
        if self.tail.is_empty() {
            self.tail.extend_from_slice(self.head.get(HEAD_BYTES - TAIL_BYTES..).unwrap_or_default());
        }
        // Up to twice the window is kept, so that moving it costs one copy of each byte, not of the window per chunk.
        let rest = rest.get(rest.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        if self.tail.len() + rest.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        }
        self.tail.extend_from_slice(rest);
    }

    pub(super) fn clear(&mut self) {
        clear_buffer(&mut self.head);
        clear_buffer(&mut self.tail);
    }

    #[cfg(test)]
    pub(super) fn head_capacity(&self) -> usize {
        self.head.capacity()
    }
}

/// Clears `buffer` and bounds its capacity.
pub(super) fn clear_buffer(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > MAX_IDLE_CAPACITY_BYTES {
        buffer.shrink_to(MAX_IDLE_CAPACITY_BYTES);
    }
}

/// Returns what [`PartialEvent`] would keep of `event`, so that the result does not depend on the chunks.
pub(super) fn head_and_tail(event: &[u8]) -> (&[u8], &[u8]) {
    match event.get(..HEAD_BYTES) {
        Some(head) if event.len() > HEAD_BYTES => (head, event.get(event.len() - TAIL_BYTES..).unwrap_or_default()),
        _ => (event, &[]),
    }
}
