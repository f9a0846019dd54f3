//! The KV memory of a replica: reference-counted blocks, of which the unreferenced ones double as a prefix cache.

/// No block; ends the chains and the free list.
const NONE: u32 = u32::MAX;

/// A fixed number of KV blocks.
///
/// *Shape*: a block is held (referenced by at least one sequence) or free; a free block may still be remembered by its
/// hash until it is taken for something else. Free blocks are taken least recently released first, blocks that hold
/// nothing worth remembering before all others. *Cost*: O(1) for every call, 28 bytes a block.
/// *Source*: vLLM `v1/core/block_pool.py`, with two differences: a hash is remembered for one block only, and blocks
/// without a hash are reused first.
#[derive(Debug)]
pub(super) struct Blocks {
    cells: Vec<Cell>,
    /// Per bucket of hashes the first remembered block, chained on through `Cell::chain`.
    buckets: Vec<u32>,
    first: u32,
    last: u32,
    free: usize,
}

#[derive(Clone, Debug)]
struct Cell {
    hash: Option<u64>,
    refs: u32,
    before: u32,
    after: u32,
    chain: u32,
}

impl Blocks {
    /// `count` free, empty blocks; `count` is capped at 2^32 - 2.
    pub(super) fn new(count: u64) -> Self {
        let count = u32::try_from(count).unwrap_or(NONE).min(NONE - 1);
        let cell = Cell { hash: None, refs: 0, before: NONE, after: NONE, chain: NONE };
        let buckets = (count as usize).next_power_of_two();
        let cells = vec![cell; count as usize];
        let mut blocks = Self { cells, buckets: vec![NONE; buckets], first: NONE, last: NONE, free: 0 };
        (0..count).for_each(|block| blocks.append(block));
        blocks
    }

    pub(super) fn count(&self) -> usize {
        self.cells.len()
    }

    /// Blocks that nobody references, remembered or not.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// The block that is remembered under `hash`.
    pub(super) fn find(&self, hash: u64) -> Option<u32> {
        let mut block = self.buckets[self.bucket(hash)];
        while block != NONE {
            let cell = &self.cells[block as usize];
            if cell.hash == Some(hash) {
                return Some(block);
            }
            block = cell.chain;
        }
        None
    }

    pub(super) fn is_free(&self, block: u32) -> bool {
        self.cells[block as usize].refs == 0
    }

    /// Adds a reference to a block that [`Self::find`] gave.
    pub(super) fn share(&mut self, block: u32) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.cells[block as usize].refs += 1;
    }

    /// Takes a free block with one reference and forgets what it held; `None` if all are held.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.first;
        if block == NONE {
            return None;
        }
        self.unlink(block);
        self.forget(block);
        self.cells[block as usize].refs = 1;
        Some(block)
    }

    /// Remembers a held block under `hash`, unless another block already is.
    pub(super) fn remember(&mut self, block: u32, hash: u64) {
        if self.cells[block as usize].hash.is_some() || self.find(hash).is_some() {
            return;
        }
        let bucket = self.bucket(hash);
        let cell = &mut self.cells[block as usize];
        cell.hash = Some(hash);
        cell.chain = std::mem::replace(&mut self.buckets[bucket], block);
    }

    /// Gives back one reference.
    pub(super) fn release(&mut self, block: u32) {
        let cell = &mut self.cells[block as usize];
        debug_assert!(cell.refs > 0, "block {block} was released twice");
        cell.refs = cell.refs.saturating_sub(1);
        match (cell.refs, cell.hash) {
            (0, Some(_)) => self.append(block),
            (0, None) => self.prepend(block),
            _ => {}
        }
    }

    fn bucket(&self, hash: u64) -> usize {
        // Callers' hashes may be small counters (traces), so the high bits are folded in by a multiplication.
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.buckets.len() - 1)
    }

    fn forget(&mut self, block: u32) {
        let Some(hash) = self.cells[block as usize].hash.take() else { return };
        let next = std::mem::replace(&mut self.cells[block as usize].chain, NONE);
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == block {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let cell = &mut self.cells[before as usize];
            if cell.chain == block {
                cell.chain = next;
                return;
            }
            before = cell.chain;
        }
    }

    fn append(&mut self, block: u32) {
        let before = std::mem::replace(&mut self.last, block);
        let cell = &mut self.cells[block as usize];
        (cell.before, cell.after) = (before, NONE);
        match before {
            NONE => self.first = block,
            _ => self.cells[before as usize].after = block,
        }
        self.free += 1;
    }

    fn prepend(&mut self, block: u32) {
        let after = std::mem::replace(&mut self.first, block);
        let cell = &mut self.cells[block as usize];
        (cell.before, cell.after) = (NONE, after);
        match after {
            NONE => self.last = block,
            _ => self.cells[after as usize].before = block,
        }
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let cell = &mut self.cells[block as usize];
        let (before, after) = (cell.before, cell.after);
        (cell.before, cell.after) = (NONE, NONE);
        match before {
            NONE => self.first = after,
            _ => self.cells[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            _ => self.cells[after as usize].before = before,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_blocks_are_found_until_they_are_taken_oldest_first() {
        let mut blocks = Blocks::new(3);
        let held: Vec<u32> = (0..3).map(|_| blocks.take().unwrap()).collect();
        assert_eq!(blocks.take(), None);
        for (at, block) in held.iter().enumerate() {
            blocks.remember(*block, at as u64);
            blocks.release(*block);
        }
        assert_eq!((0..4).map(|h| blocks.find(h).is_some()).collect::<Vec<_>>(), [true, true, true, false]);
        blocks.share(held[0]);
        assert_eq!(blocks.take(), Some(held[1]));
        assert_eq!((blocks.find(0), blocks.find(1), blocks.free()), (Some(held[0]), None, 1));
    }

    #[test]
    fn blocks_without_a_hash_are_reused_before_remembered_ones() {
        let mut blocks = Blocks::new(2);
        let (kept, spare) = (blocks.take().unwrap(), blocks.take().unwrap());
        blocks.remember(kept, 7);
        blocks.remember(spare, 7);
        blocks.release(kept);
        blocks.release(spare);
        assert_eq!(blocks.take(), Some(spare));
        assert_eq!(blocks.find(7), Some(kept));
    }

    #[test]
    fn hashes_of_one_bucket_do_not_lose_each_other() {
        let mut blocks = Blocks::new(1 << 10);
        for hash in 0..1 << 10 {
            let block = blocks.take().unwrap();
            blocks.remember(block, hash << 32);
            blocks.release(block);
        }
        for _ in 0..1 << 9 {
            let block = blocks.take().unwrap();
            blocks.release(block);
            blocks.share(block);
        }
        let found = (0..1 << 10).filter(|h| blocks.find(h << 32).is_some()).count();
        assert_eq!(found, 1 << 9);
    }
}
