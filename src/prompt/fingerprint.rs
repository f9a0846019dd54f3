//! A prompt's fingerprint: hashes by which two prompts are known to begin alike, without keeping their text.

use twox_hash::XxHash3_64;

use super::PromptMembers;
use super::pieces::{PromptPiece, for_each_piece};
use super::text_stats::{TextCounter, TextStats};
use crate::units::Tokens;

/// Bytes that are hashed at once.
const UNIT_BYTES: usize = 256;
/// So many units are a block each; further in, blocks are longer, so that there are at most half as many to each
/// doubling of the prompt.
const SINGLE_UNIT_BLOCKS: u32 = 128;
/// Bytes that a picture or a sound takes among the text, so that it has a share of the prompt's tokens.
const MEDIA_BYTES: usize = 2_048;

/// What a prompt begins with, as hashes of its beginnings, shortest first.
///
/// *Shape*: equal beginnings have equal hashes, on every machine, whatever their JSON is spelled like; model and
/// `cache_salt` count as part of the beginning. A block is 256 bytes up to 32 KiB, at most a 64th of what is before it
/// further in; a body of 32 MiB has 768. What is after the last whole block has no hash. *Source*: XXH3, 64 bits, of each
/// 256 bytes behind the hash of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptFingerprint {
    blocks: Vec<PrefixBlock>,
    /// The prompt's length, in the measure of the blocks' ends.
    total_length: u64,
    /// A hash of all of it.
    full_hash: u64,
}

/// A prompt's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PrefixBlock {
    hash: u64,
    end: u64,
}

impl PromptFingerprint {
    /// The fingerprint of a prompt of which only the hashes of its blocks are known, such as one in a trace.
    ///
    /// `ids` are alike where the prompts are alike up to there; each stands for `block` tokens of `prompt`.
    pub fn from_blocks(ids: impl IntoIterator<Item = u64>, block: Tokens, prompt: Tokens) -> Self {
        let mut end = 0;
        let named = |id: u64| {
            end += block.0;
            PrefixBlock { hash: XxHash3_64::oneshot(&id.to_le_bytes()), end }
        };
        let blocks: Vec<PrefixBlock> = ids.into_iter().map(named).collect();
        let all = blocks.last().map_or(prompt.0, |last| last.hash);
        Self { total_length: prompt.0.max(end), blocks, full_hash: all }
    }

    /// The blocks' hashes, each of all up to its end.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = u64> {
        self.blocks.iter().map(|block| block.hash)
    }

    /// The blocks' hashes, each with how many times 256 bytes the block is long; of [`PromptFingerprint::from_blocks`], 1 each.
    pub fn hashes_with_units(&self) -> impl Iterator<Item = (u64, u64)> {
        let unit = self.blocks.first().map_or(1, |first| first.end.max(1));
        let mut before = 0;
        self.blocks.iter().map(move |block| {
            let units = (block.end - before) / unit;
            before = block.end;
            (block.hash, units)
        })
    }

    /// The tokens in the first `blocks` blocks of a prompt that has `prompt` tokens in all; by their share of its bytes.
    pub fn tokens_in_blocks(&self, blocks: usize, prompt: Tokens) -> Tokens {
        let last = blocks.min(self.blocks.len()).checked_sub(1).and_then(|last| self.blocks.get(last));
        let end = last.map_or(0, |last| last.end);
        let tokens = u128::from(prompt.0) * u128::from(end) / u128::from(self.total_length.max(1));
        Tokens(u64::try_from(tokens).unwrap_or(u64::MAX))
    }

    /// What the prompt is known by: a hash of its first `bytes`, to whole blocks, or of all of a shorter one.
    pub fn prefix_hash(&self, bytes: u64) -> u64 {
        let longer = self.blocks.iter().take_while(|block| block.end <= bytes);
        let known = if self.total_length > bytes { longer.last().map(|block| block.hash) } else { None };
        known.unwrap_or(self.full_hash)
    }
}

/// Counts a prompt and takes its fingerprint in one pass. `apart`: what keeps its cache from others', such as the model.
///
/// *Cost*: as [`TextStats::from_prompt`], and about half as much again.
pub fn fingerprint_and_count(text: &PromptMembers<'_>, apart: &[&str]) -> (TextStats, PromptFingerprint) {
    let (mut tally, mut print) = (TextCounter::default(), Fingerprinter::new(apart));
    for_each_piece(text, |piece| {
        tally.add_piece(piece);
        print.add_piece(piece);
    });
    (tally.finish(), print.finish())
}

/// A fingerprint in the making.
struct Fingerprinter {
    fingerprint: PromptFingerprint,
    /// The hash of the units so far, then the unit that is being gathered.
    bytes: [u8; 8 + UNIT_BYTES],
    used: usize,
    units: u32,
}

impl Fingerprinter {
    fn new(apart: &[&str]) -> Self {
        let mut print =
            Self { fingerprint: PromptFingerprint::default(), bytes: [0; 8 + UNIT_BYTES], used: 8, units: 0 };
        let before = apart.iter().fold(0, |before, part| XxHash3_64::oneshot_with_seed(before, part.as_bytes()));
        print.set_previous_hash(before);
        print
    }

    fn add_piece(&mut self, piece: PromptPiece<'_>) {
        match piece {
            PromptPiece::Text(text) => self.push_bytes(text.as_bytes()),
            PromptPiece::Turn(whose) => {
                self.push_bytes(b"\x1e");
                self.push_bytes(whose.as_bytes());
                self.push_bytes(b"\x1f");
            }
            PromptPiece::Tools(tools) => compact_json(tools, |part| self.push_bytes(part)),
            PromptPiece::TokenId(id) => {
                self.push_bytes(id.as_bytes());
                self.push_bytes(b",");
            }
            PromptPiece::Media(_, source) => {
                let hash = XxHash3_64::oneshot(source.as_bytes()).to_le_bytes();
                (0..MEDIA_BYTES / hash.len()).for_each(|_| self.push_bytes(&hash));
            }
        }
    }

    fn push_bytes(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let room = self.bytes.get_mut(self.used..).unwrap_or_default();
            let (now, later) = text.split_at(text.len().min(room.len()));
            if let Some(place) = room.get_mut(..now.len()) {
                place.copy_from_slice(now);
            }
            self.used += now.len();
            text = later;
            if self.used == self.bytes.len() {
                self.end_unit();
            }
        }
    }

    fn end_unit(&mut self) {
        let hash = XxHash3_64::oneshot(&self.bytes);
        self.set_previous_hash(hash);
        self.used = 8;
        self.units = self.units.saturating_add(1);
        self.fingerprint.total_length += UNIT_BYTES as u64;
        let doublings = (self.units.saturating_sub(1) / SINGLE_UNIT_BLOCKS).checked_ilog2().map_or(0, |log| log + 1);
        if self.units.is_multiple_of(1 << doublings) {
            self.fingerprint.blocks.push(PrefixBlock { hash, end: self.fingerprint.total_length });
        }
    }

    fn set_previous_hash(&mut self, hash: u64) {
        if let Some(place) = self.bytes.get_mut(..8) {
            place.copy_from_slice(&hash.to_le_bytes());
        }
    }

    fn finish(mut self) -> PromptFingerprint {
        self.fingerprint.full_hash = XxHash3_64::oneshot(self.bytes.get(..self.used).unwrap_or_default());
        self.fingerprint.total_length += self.used as u64 - 8;
        self.fingerprint
    }
}

/// Gives out JSON without the white space between its parts.
fn compact_json(json: &str, mut each: impl FnMut(&[u8])) {
    let (mut quoted, mut escaped, mut from) = (false, false, 0);
    let bytes = json.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        if !quoted && byte.is_ascii_whitespace() {
            each(bytes.get(from..at).unwrap_or_default());
            from = at + 1;
        }
        quoted ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
    }
    each(bytes.get(from..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::super::ParsedBody;
    use super::*;

    fn fingerprint_body(body: &str) -> PromptFingerprint {
        fingerprint_and_count(&ParsedBody::parse(body.as_bytes()).unwrap().prompt, &["m"]).1
    }

    fn fingerprint_chat(turns: &[&str]) -> PromptFingerprint {
        let turns: Vec<String> = turns.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
        fingerprint_body(&format!(r#"{{"messages":[{}]}}"#, turns.join(",")))
    }

    fn count_shared_blocks(one: &PromptFingerprint, other: &PromptFingerprint) -> usize {
        one.hashes().zip(other.hashes()).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn prompts_share_blocks_as_far_as_they_are_alike() {
        let long = "word ".repeat(1_000);
        let (first, second) = (fingerprint_chat(&[&long]), fingerprint_chat(&[&long, "and then?"]));
        assert_eq!((first.hashes().len(), count_shared_blocks(&first, &second)), (19, 19));
        let other = fingerprint_chat(&[&format!("{}x{}", &long[..2_000], &long[2_001..])]);
        assert_eq!(count_shared_blocks(&first, &other), 7);
        assert_eq!(count_shared_blocks(&first, &fingerprint_chat(&["x", &long])), 0);
    }

    #[test]
    fn spelling_does_not_matter_and_what_keeps_caches_apart_does() {
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":"é{}"}}],"tools":[{{"a":"b c"}}]}}"#, "a".repeat(999));
        let spelled = body.replace('é', "\\u00e9").replace(":[", " : [ ").replace("\"a\":", "\"a\" :\n");
        assert_eq!(fingerprint_body(&body), fingerprint_body(&spelled));
        assert_eq!(fingerprint_body(&body).hashes().len(), 3);
        let request = ParsedBody::parse(body.as_bytes()).unwrap();
        for apart in [&["n"][..], &["m", "salt"], &[]] {
            assert_eq!(
                count_shared_blocks(&fingerprint_body(&body), &fingerprint_and_count(&request.prompt, apart).1),
                0
            );
        }
        assert_ne!(fingerprint_body(&body), fingerprint_body(&body.replace("b c", "bc")));
    }

    #[test]
    fn blocks_grow_with_the_distance_so_that_they_are_few() {
        let count =
            |kib: usize| fingerprint_body(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(kib * 1024))).hashes().len();
        assert_eq!([1, 32, 64, 256, 1024].map(count), [4, 128, 192, 320, 448]);
        let prefix = fingerprint_body(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(300_000)));
        let mut before = 32 * 1024;
        for block in prefix.blocks.iter().filter(|block| block.end > 32 * 1024) {
            assert!(block.end - before <= before / 64, "{block:?} after {before}");
            before = block.end;
        }
    }

    #[test]
    fn a_block_has_its_share_of_the_tokens() {
        let prefix = fingerprint_body(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1_000)));
        assert_eq!([0, 1, 3, 9].map(|blocks| prefix.tokens_in_blocks(blocks, Tokens(500)).0), [0, 128, 384, 384]);
        let traced = PromptFingerprint::from_blocks([7, 8], Tokens(512), Tokens(1_100));
        assert_eq!([1, 2].map(|blocks| traced.tokens_in_blocks(blocks, Tokens(1_100)).0), [512, 1_024]);
        assert_eq!(PromptFingerprint::default().tokens_in_blocks(3, Tokens(5)), Tokens(0));
    }

    #[test]
    fn a_key_is_of_the_beginning_and_of_all_of_what_is_shorter() {
        let long = "y".repeat(5_000);
        assert_eq!(
            fingerprint_chat(&[&long, "a"]).prefix_hash(4_096),
            fingerprint_chat(&[&long, "b"]).prefix_hash(4_096)
        );
        assert_ne!(
            fingerprint_chat(&[&long, "a"]).prefix_hash(8_192),
            fingerprint_chat(&[&long, "b"]).prefix_hash(8_192)
        );
        assert_ne!(fingerprint_chat(&["a"]).prefix_hash(4_096), fingerprint_chat(&["b"]).prefix_hash(4_096));
    }

    #[test]
    fn hashes_are_the_same_on_every_machine() {
        assert_eq!(fingerprint_body(r#"{"prompt":"a"}"#).prefix_hash(1_024), 9_464_721_040_299_753_022);
    }
}
