//! A prompt's fingerprint: hashes that show whether two prompts share a prefix, without keeping their text.

use twox_hash::XxHash3_64;

use super::pieces::{PromptPiece, for_each_piece};
use super::prompt_members::PromptMembers;
use super::tokens::{TextCounter, TextStats};
use crate::units::Tokens;

/// Bytes hashed at once.
const UNIT_BYTES: usize = 256;
/// The first units, each of which is a block. Later blocks are longer, so that each doubling of the prompt adds at most
/// half as many.
const SINGLE_UNIT_BLOCKS: u32 = 128;
/// Bytes that an image or a sound counts for, so that it has a share of the prompt's tokens.
const MEDIA_BYTES: usize = 2_048;

/// The hashes of a prompt's prefixes, shortest first.
///
/// *Shape*: equal prefixes have equal hashes on every machine, for any spelling of their JSON. Model and `cache_salt`
/// are part of the prefix. A block is 256 bytes up to 32 KiB, then at most a 64th of the text before it; a body of 32
/// MiB has
/// 768. The text after the last full block has no hash. *Source*: XXH3, 64 bits, of the previous hash and 256 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptFingerprint {
    blocks: Vec<PrefixBlock>,
    /// The prompt's length, in the unit of the blocks' ends.
    total_length: u64,
    /// A hash of the whole prompt.
    full_hash: u64,
}

/// A block: the hash of the prefix up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PrefixBlock {
    hash: u64,
    end: u64,
}

impl PromptFingerprint {
    /// Returns the fingerprint of a prompt of which only the block ids are known, such as one in a trace.
    ///
    /// Equal `ids` stand for equal prefixes; each covers `block_size` tokens of `prompt`.
    pub fn from_blocks(ids: impl IntoIterator<Item = u64>, block_size: Tokens, prompt: Tokens) -> Self {
        let mut end = 0;
        let to_block = |id: u64| {
            end += block_size.0;
            PrefixBlock { hash: XxHash3_64::oneshot(&id.to_le_bytes()), end }
        };
        let blocks: Vec<PrefixBlock> = ids.into_iter().map(to_block).collect();
        let full_hash = blocks.last().map_or(prompt.0, |last| last.hash);
        Self { total_length: prompt.0.max(end), blocks, full_hash }
    }

    /// Returns the blocks' hashes, each of the prefix up to the block's end.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = u64> {
        self.blocks.iter().map(|block| block.hash)
    }

    /// Returns the blocks' hashes, each with the block's length in units of 256 bytes; 1 for
    /// [`PromptFingerprint::from_blocks`].
    pub fn hashes_with_units(&self) -> impl Iterator<Item = (u64, u64)> {
        let unit = self.blocks.first().map_or(1, |first| first.end.max(1));
        let mut before = 0;
        self.blocks.iter().map(move |block| {
            let units = (block.end - before) / unit;
            before = block.end;
            (block.hash, units)
        })
    }

    /// Returns the tokens in the first `blocks` blocks of a prompt of `prompt` tokens, by their share of its bytes.
    pub fn tokens_in_blocks(&self, blocks: usize, prompt: Tokens) -> Tokens {
        let last = blocks.min(self.blocks.len()).checked_sub(1).and_then(|last| self.blocks.get(last));
        let end = last.map_or(0, |last| last.end);
        let tokens = u128::from(prompt.0) * u128::from(end) / u128::from(self.total_length.max(1));
        Tokens(u64::try_from(tokens).unwrap_or(u64::MAX))
    }

    /// Returns a hash of the prompt's first `bytes`, rounded down to full blocks; of a shorter prompt, of all of it.
    pub fn prefix_hash(&self, bytes: u64) -> u64 {
        let within = self.blocks.iter().take_while(|block| block.end <= bytes);
        let prefix = if self.total_length > bytes { within.last().map(|block| block.hash) } else { None };
        prefix.unwrap_or(self.full_hash)
    }
}

/// Returns a prompt's counts and its fingerprint, from one pass. `cache_scope` are the names that separate its cache
/// entries from others, such as the model's.
///
/// *Cost*: 1.5 times that of [`TextStats::from_prompt`].
pub fn fingerprint_and_count(prompt: &PromptMembers<'_>, cache_scope: &[&str]) -> (TextStats, PromptFingerprint) {
    let (mut counter, mut fingerprinter) = (TextCounter::default(), Fingerprinter::new(cache_scope));
    for_each_piece(prompt, |piece| {
        counter.add_piece(piece);
        fingerprinter.add_piece(piece);
    });
    (counter.finish(), fingerprinter.finish())
}

/// A fingerprint under construction.
struct Fingerprinter {
    fingerprint: PromptFingerprint,
    /// The hash of the units so far, then the bytes of the current unit.
    bytes: [u8; 8 + UNIT_BYTES],
    used: usize,
    units: u32,
}

impl Fingerprinter {
    fn new(cache_scope: &[&str]) -> Self {
        let mut fingerprinter =
            Self { fingerprint: PromptFingerprint::default(), bytes: [0; 8 + UNIT_BYTES], used: 8, units: 0 };
        let hash = cache_scope.iter().fold(0, |seed, name| XxHash3_64::oneshot_with_seed(seed, name.as_bytes()));
        fingerprinter.set_previous_hash(hash);
        fingerprinter
    }

    fn add_piece(&mut self, piece: PromptPiece<'_>) {
        match piece {
            PromptPiece::Text(text) => self.push_bytes(text.as_bytes()),
            PromptPiece::Turn(role) => {
                self.push_bytes(b"\x1e");
                self.push_bytes(role.as_bytes());
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

/// Passes JSON to `each` without the white space between its tokens.
fn compact_json(json: &str, mut each: impl FnMut(&[u8])) {
    let (mut in_string, mut escaped, mut start) = (false, false, 0);
    let bytes = json.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        if !in_string && byte.is_ascii_whitespace() {
            each(bytes.get(start..at).unwrap_or_default());
            start = at + 1;
        }
        in_string ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
    }
    each(bytes.get(start..).unwrap_or_default());
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
    fn prompts_share_blocks_up_to_their_first_difference() {
        let long = "word ".repeat(1_000);
        let (first, second) = (fingerprint_chat(&[&long]), fingerprint_chat(&[&long, "and then?"]));
        assert_eq!((first.hashes().len(), count_shared_blocks(&first, &second)), (19, 19));
        let other = fingerprint_chat(&[&format!("{}x{}", &long[..2_000], &long[2_001..])]);
        assert_eq!(count_shared_blocks(&first, &other), 7);
        assert_eq!(count_shared_blocks(&first, &fingerprint_chat(&["x", &long])), 0);
    }

    #[test]
    fn fingerprint_ignores_spelling_and_depends_on_the_cache_scope() {
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":"é{}"}}],"tools":[{{"a":"b c"}}]}}"#, "a".repeat(999));
        let spelled = body.replace('é', "\\u00e9").replace(":[", " : [ ").replace("\"a\":", "\"a\" :\n");
        assert_eq!(fingerprint_body(&body), fingerprint_body(&spelled));
        assert_eq!(fingerprint_body(&body).hashes().len(), 3);
        let request = ParsedBody::parse(body.as_bytes()).unwrap();
        for scope in [&["n"][..], &["m", "salt"], &[]] {
            assert_eq!(
                count_shared_blocks(&fingerprint_body(&body), &fingerprint_and_count(&request.prompt, scope).1),
                0
            );
        }
        assert_ne!(fingerprint_body(&body), fingerprint_body(&body.replace("b c", "bc")));
    }

    #[test]
    fn metadata_of_clients_is_in_no_hash_and_no_count() {
        let system = "You are an agent. ".repeat(100);
        let measure = |body: &str| fingerprint_and_count(&ParsedBody::parse(body.as_bytes()).unwrap().prompt, &["m"]);
        let header = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;";
        let own_block = format!(r#"{{"type":"text","text":"{header}"}},"#);
        let first_line = format!(r"{header}\n");
        for (body, place) in [
            (r#"{"system":[@{"type":"text","text":"SYSTEM"}],"messages":[{"role":"user","content":"a"}]}"#, &own_block),
            (r#"{"system":"@SYSTEM","messages":[{"role":"user","content":"a"}]}"#, &first_line),
            (r#"{"system":[{"type":"text","text":"@SYSTEM"}],"messages":[]}"#, &first_line),
            (r#"{"messages":[{"role":"system","content":"@SYSTEM"},{"role":"user","content":"a"}]}"#, &first_line),
            (r#"{"messages":[{"content":"@SYSTEM","name":"x","role":"developer"}]}"#, &first_line),
            (r#"{"messages":[{"role":"system","content":[@{"type":"text","text":"SYSTEM"}]}]}"#, &own_block),
            (r#"{"input":[{"type":"message","role":"developer","content":[@{"text":"SYSTEM"}]}]}"#, &own_block),
            (r#"{"instructions":"@SYSTEM","input":"a"}"#, &first_line),
            (r#"{"prompt":"@SYSTEM"}"#, &first_line),
        ] {
            let body = body.replace("SYSTEM", &system);
            let [with, without] = [place.as_str(), ""].map(|text| measure(&body.replace('@', text)));
            assert_eq!(with, without, "{body}");
        }
        let quoted = format!(r#"{{"messages":[{{"role":"user","content":"{header}"}}]}}"#);
        assert!(measure(&quoted).0.digits > 0, "the user's own text counts");
    }

    #[test]
    fn ids_and_cache_breakpoints_are_in_no_hash() {
        let text = "You are an agent. ".repeat(100);
        let item = |id: &str| {
            format!(
                r#"{{"input":[{{"type":"message","id":"{id}","role":"developer","content":[{{"text":"{text}"}}]}}]}}"#
            )
        };
        assert_eq!(fingerprint_body(&item("msg_1")), fingerprint_body(&item("msg_02")));
        let block = |more: &str| {
            format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{text}"{more}}}]}}]}}"#)
        };
        let marked = block(r#","cache_control":{"type":"ephemeral","ttl":"1h"}"#);
        assert_eq!(fingerprint_body(&block("")), fingerprint_body(&marked));
    }

    #[test]
    fn blocks_grow_with_their_offset() {
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
    fn block_has_its_share_of_the_tokens() {
        let prefix = fingerprint_body(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1_000)));
        assert_eq!([0, 1, 3, 9].map(|blocks| prefix.tokens_in_blocks(blocks, Tokens(500)).0), [0, 128, 384, 384]);
        let traced = PromptFingerprint::from_blocks([7, 8], Tokens(512), Tokens(1_100));
        assert_eq!([1, 2].map(|blocks| traced.tokens_in_blocks(blocks, Tokens(1_100)).0), [512, 1_024]);
        assert_eq!(PromptFingerprint::default().tokens_in_blocks(3, Tokens(5)), Tokens(0));
    }

    #[test]
    fn prefix_hash_covers_the_prefix_and_all_of_a_shorter_prompt() {
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
