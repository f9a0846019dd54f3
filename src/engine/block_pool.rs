//! The KV memory of a replica: reference-counted blocks, of which the free ones form the prefix cache.

/// No block: the end of a chain or of the free list.
const NO_BLOCK: u32 = u32::MAX;

/// A fixed number of KV blocks.
///
/// *Shape*: a block is held (referenced by at least one sequence) or free. A free block stays cached by its hash until
/// it is allocated again. Blocks without a hash are allocated first, then those released least recently. *Cost*: O(1)
/// for every call, 28 bytes a block. *Source*: vLLM `v1/core/block_pool.py`, with two differences: a hash is cached for
/// one block only, and blocks without a hash are reused first.
#[derive(Debug)]
pub(super) struct BlockPool {
    cells: Vec<BlockCell>,
    /// The first cached block of each bucket of hashes; the next ones follow by `BlockCell::next_in_bucket`.
    hash_buckets: Vec<u32>,
    free_head: u32,
    free_tail: u32,
    free_count: usize,
}

#[derive(Clone, Debug)]
struct BlockCell {
    hash: Option<u64>,
    ref_count: u32,
    previous_free: u32,
    next_free: u32,
    next_in_bucket: u32,
}

impl BlockPool {
    /// Returns `count` free, empty blocks, at most 2^32 - 2.
    pub(super) fn new(count: u64) -> Self {
        let count = u32::try_from(count).unwrap_or(NO_BLOCK).min(NO_BLOCK - 1);
        let empty = BlockCell {
            hash: None,
            ref_count: 0,
            previous_free: NO_BLOCK,
            next_free: NO_BLOCK,
            next_in_bucket: NO_BLOCK,
        };
        let buckets = (count as usize).next_power_of_two();
        let cells = vec![empty; count as usize];
        let mut blocks = Self {
            cells,
            hash_buckets: vec![NO_BLOCK; buckets],
            free_head: NO_BLOCK,
            free_tail: NO_BLOCK,
            free_count: 0,
        };
        (0..count).for_each(|block| blocks.append_free(block));
        blocks
    }

    pub(super) fn block_count(&self) -> usize {
        self.cells.len()
    }

    /// Returns the number of blocks without a reference, cached or not.
    pub(super) fn free_count(&self) -> usize {
        self.free_count
    }

    /// Returns the block that is cached under `hash`.
    pub(super) fn find_cached(&self, hash: u64) -> Option<u32> {
        let mut block = self.hash_buckets[self.bucket_index(hash)];
        while block != NO_BLOCK {
            let cell = &self.cells[block as usize];
            if cell.hash == Some(hash) {
                return Some(block);
            }
            block = cell.next_in_bucket;
        }
        None
    }

    pub(super) fn is_free(&self, block: u32) -> bool {
        self.cells[block as usize].ref_count == 0
    }

    /// Adds a reference to a block from [`Self::find_cached`].
    pub(super) fn add_reference(&mut self, block: u32) {
        if self.is_free(block) {
            self.unlink_free(block);
        }
        self.cells[block as usize].ref_count += 1;
    }

    /// Returns a free block with one reference and removes it from the cache; `None` if all are held.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        let block = self.free_head;
        if block == NO_BLOCK {
            return None;
        }
        self.unlink_free(block);
        self.uncache_block(block);
        self.cells[block as usize].ref_count = 1;
        Some(block)
    }

    /// Caches a held block under `hash`, unless another block is.
    pub(super) fn cache_block(&mut self, block: u32, hash: u64) {
        if self.cells[block as usize].hash.is_some() || self.find_cached(hash).is_some() {
            return;
        }
        let bucket = self.bucket_index(hash);
        let cell = &mut self.cells[block as usize];
        cell.hash = Some(hash);
        cell.next_in_bucket = std::mem::replace(&mut self.hash_buckets[bucket], block);
    }

    /// Releases one reference.
    pub(super) fn release(&mut self, block: u32) {
        let cell = &mut self.cells[block as usize];
        debug_assert!(cell.ref_count > 0, "block {block} was released twice");
        cell.ref_count = cell.ref_count.saturating_sub(1);
        match (cell.ref_count, cell.hash) {
            (0, Some(_)) => self.append_free(block),
            (0, None) => self.prepend_free(block),
            _ => {}
        }
    }

    fn bucket_index(&self, hash: u64) -> usize {
        // Callers' hashes may be small counters (traces), so a multiplication spreads them over the high bits.
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.hash_buckets.len() - 1)
    }

    fn uncache_block(&mut self, block: u32) {
        let Some(hash) = self.cells[block as usize].hash.take() else { return };
        let next = std::mem::replace(&mut self.cells[block as usize].next_in_bucket, NO_BLOCK);
        let bucket = self.bucket_index(hash);
        if self.hash_buckets[bucket] == block {
            self.hash_buckets[bucket] = next;
            return;
        }
        let mut before = self.hash_buckets[bucket];
        while before != NO_BLOCK {
            let cell = &mut self.cells[before as usize];
            if cell.next_in_bucket == block {
                cell.next_in_bucket = next;
                return;
            }
            before = cell.next_in_bucket;
        }
    }

    fn append_free(&mut self, block: u32) {
        let before = std::mem::replace(&mut self.free_tail, block);
        let cell = &mut self.cells[block as usize];
        (cell.previous_free, cell.next_free) = (before, NO_BLOCK);
        match before {
            NO_BLOCK => self.free_head = block,
            _ => self.cells[before as usize].next_free = block,
        }
        self.free_count += 1;
    }

    fn prepend_free(&mut self, block: u32) {
        let after = std::mem::replace(&mut self.free_head, block);
        let cell = &mut self.cells[block as usize];
        (cell.previous_free, cell.next_free) = (NO_BLOCK, after);
        match after {
            NO_BLOCK => self.free_tail = block,
            _ => self.cells[after as usize].previous_free = block,
        }
        self.free_count += 1;
    }

    fn unlink_free(&mut self, block: u32) {
        let cell = &mut self.cells[block as usize];
        let (before, after) = (cell.previous_free, cell.next_free);
        (cell.previous_free, cell.next_free) = (NO_BLOCK, NO_BLOCK);
        match before {
            NO_BLOCK => self.free_head = after,
            _ => self.cells[before as usize].next_free = after,
        }
        match after {
            NO_BLOCK => self.free_tail = before,
            _ => self.cells[after as usize].previous_free = before,
        }
        self.free_count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_blocks_stay_cached_until_allocated_oldest_first() {
        let mut blocks = BlockPool::new(3);
        let held: Vec<u32> = (0..3).map(|_| blocks.allocate().unwrap()).collect();
        assert_eq!(blocks.allocate(), None);
        for (at, block) in held.iter().enumerate() {
            blocks.cache_block(*block, at as u64);
            blocks.release(*block);
        }
        assert_eq!((0..4).map(|h| blocks.find_cached(h).is_some()).collect::<Vec<_>>(), [true, true, true, false]);
        blocks.add_reference(held[0]);
        assert_eq!(blocks.allocate(), Some(held[1]));
        assert_eq!((blocks.find_cached(0), blocks.find_cached(1), blocks.free_count()), (Some(held[0]), None, 1));
    }

    #[test]
    fn blocks_without_a_hash_are_reused_before_cached_ones() {
        let mut blocks = BlockPool::new(2);
        let (kept, spare) = (blocks.allocate().unwrap(), blocks.allocate().unwrap());
        blocks.cache_block(kept, 7);
        blocks.cache_block(spare, 7);
        blocks.release(kept);
        blocks.release(spare);
        assert_eq!(blocks.allocate(), Some(spare));
        assert_eq!(blocks.find_cached(7), Some(kept));
    }

    #[test]
    fn hashes_of_one_bucket_stay_separate() {
        let mut blocks = BlockPool::new(1 << 10);
        for hash in 0..1 << 10 {
            let block = blocks.allocate().unwrap();
            blocks.cache_block(block, hash << 32);
            blocks.release(block);
        }
        for _ in 0..1 << 9 {
            let block = blocks.allocate().unwrap();
            blocks.release(block);
            blocks.add_reference(block);
        }
        let found = (0..1 << 10).filter(|h| blocks.find_cached(h << 32).is_some()).count();
        assert_eq!(found, 1 << 9);
    }
}
