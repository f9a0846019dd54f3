//! A prompt's fingerprint: hashes by which two prompts are known to begin alike, without keeping their text.

use twox_hash::XxHash3_64;

use super::Text;
use super::census::{Census, Tally};
use super::walk::{Piece, walk};
use crate::units::Tokens;

/// Bytes that are hashed at once.
const UNIT_BYTES: usize = 256;
/// So many units are a block each; further in, blocks are longer, so that there are at most half as many to each
/// doubling of the prompt.
const SINGLE_UNITS: u32 = 128;
/// Bytes that a picture or a sound takes among the text, so that it has a share of the prompt's tokens.
const MEDIA_BYTES: usize = 2_048;

/// What a prompt begins with, as hashes of its beginnings, shortest first.
///
/// *Shape*: equal beginnings have equal hashes, on every machine, whatever their JSON is spelled like; model and
/// `cache_salt` count as part of the beginning. A block is 256 bytes up to 32 KiB, at most a 64th of what is before it
/// further in; a body of 32 MiB has 768. What is after the last whole block has no hash. *Source*: XXH3, 64 bits, of each
/// 256 bytes behind the hash of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    blocks: Vec<Block>,
    /// The prompt's length, in the measure of the blocks' ends.
    whole: u64,
    /// A hash of all of it.
    all: u64,
}

/// A prompt's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    hash: u64,
    end: u64,
}

impl Prefix {
    /// The fingerprint of a prompt of which only the hashes of its blocks are known, such as one in a trace.
    ///
    /// `ids` are alike where the prompts are alike up to there; each stands for `block` tokens of `prompt`.
    pub fn of_blocks(ids: impl IntoIterator<Item = u64>, block: Tokens, prompt: Tokens) -> Self {
        let mut end = 0;
        let named = |id: u64| {
            end += block.0;
            Block { hash: XxHash3_64::oneshot(&id.to_le_bytes()), end }
        };
        let blocks: Vec<Block> = ids.into_iter().map(named).collect();
        let all = blocks.last().map_or(prompt.0, |last| last.hash);
        Self { whole: prompt.0.max(end), blocks, all }
    }

    /// The blocks' hashes, each of all up to its end.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = u64> {
        self.blocks.iter().map(|block| block.hash)
    }

    /// The blocks' hashes, each with how many times 256 bytes the block is long; of [`Prefix::of_blocks`], 1 each.
    pub fn units(&self) -> impl Iterator<Item = (u64, u64)> {
        let unit = self.blocks.first().map_or(1, |first| first.end.max(1));
        let mut before = 0;
        self.blocks.iter().map(move |block| {
            let units = (block.end - before) / unit;
            before = block.end;
            (block.hash, units)
        })
    }

    /// The tokens in the first `blocks` blocks of a prompt that has `prompt` tokens in all; by their share of its bytes.
    pub fn tokens(&self, blocks: usize, prompt: Tokens) -> Tokens {
        let last = blocks.min(self.blocks.len()).checked_sub(1).and_then(|last| self.blocks.get(last));
        let end = last.map_or(0, |last| last.end);
        let tokens = u128::from(prompt.0) * u128::from(end) / u128::from(self.whole.max(1));
        Tokens(u64::try_from(tokens).unwrap_or(u64::MAX))
    }

    /// What the prompt is known by: a hash of its first `bytes`, to whole blocks, or of all of a shorter one.
    pub fn key(&self, bytes: u64) -> u64 {
        let longer = self.blocks.iter().take_while(|block| block.end <= bytes);
        let known = if self.whole > bytes { longer.last().map(|block| block.hash) } else { None };
        known.unwrap_or(self.all)
    }
}

/// Counts a prompt and takes its fingerprint in one pass. `apart`: what keeps its cache from others', such as the model.
///
/// *Cost*: as [`Census::of`], and about half as much again.
pub fn survey(text: &Text<'_>, apart: &[&str]) -> (Census, Prefix) {
    let (mut tally, mut print) = (Tally::default(), Print::new(apart));
    walk(text, |piece| {
        tally.add(piece);
        print.add(piece);
    });
    (tally.finish(), print.finish())
}

/// A fingerprint in the making.
struct Print {
    prefix: Prefix,
    /// The hash of the units so far, then the unit that is being gathered.
    bytes: [u8; 8 + UNIT_BYTES],
    used: usize,
    units: u32,
}

impl Print {
    fn new(apart: &[&str]) -> Self {
        let mut print = Self { prefix: Prefix::default(), bytes: [0; 8 + UNIT_BYTES], used: 8, units: 0 };
        let before = apart.iter().fold(0, |before, part| XxHash3_64::oneshot_with_seed(before, part.as_bytes()));
        print.chain(before);
        print
    }

    fn add(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Text(text) => self.push(text.as_bytes()),
            Piece::Turn(whose) => {
                self.push(b"\x1e");
                self.push(whose.as_bytes());
                self.push(b"\x1f");
            }
            Piece::Tools(tools) => compact(tools, |part| self.push(part)),
            Piece::Token(id) => {
                self.push(id.as_bytes());
                self.push(b",");
            }
            Piece::Media(_, source) => {
                let hash = XxHash3_64::oneshot(source.as_bytes()).to_le_bytes();
                (0..MEDIA_BYTES / hash.len()).for_each(|_| self.push(&hash));
            }
        }
    }

    fn push(&mut self, mut text: &[u8]) {
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
        self.chain(hash);
        self.used = 8;
        self.units = self.units.saturating_add(1);
        self.prefix.whole += UNIT_BYTES as u64;
        let doublings = (self.units.saturating_sub(1) / SINGLE_UNITS).checked_ilog2().map_or(0, |log| log + 1);
        if self.units.is_multiple_of(1 << doublings) {
            self.prefix.blocks.push(Block { hash, end: self.prefix.whole });
        }
    }

    fn chain(&mut self, hash: u64) {
        if let Some(place) = self.bytes.get_mut(..8) {
            place.copy_from_slice(&hash.to_le_bytes());
        }
    }

    fn finish(mut self) -> Prefix {
        self.prefix.all = XxHash3_64::oneshot(self.bytes.get(..self.used).unwrap_or_default());
        self.prefix.whole += self.used as u64 - 8;
        self.prefix
    }
}

/// Gives out JSON without the white space between its parts.
fn compact(json: &str, mut each: impl FnMut(&[u8])) {
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
    use super::*;
    use crate::prompt::Request;

    fn of(body: &str) -> Prefix {
        survey(&Request::parse(body.as_bytes()).unwrap().text, &["m"]).1
    }

    fn chat(turns: &[&str]) -> Prefix {
        let turns: Vec<String> = turns.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
        of(&format!(r#"{{"messages":[{}]}}"#, turns.join(",")))
    }

    fn shared(one: &Prefix, other: &Prefix) -> usize {
        one.hashes().zip(other.hashes()).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn prompts_share_blocks_as_far_as_they_are_alike() {
        let long = "word ".repeat(1_000);
        let (first, second) = (chat(&[&long]), chat(&[&long, "and then?"]));
        assert_eq!((first.hashes().len(), shared(&first, &second)), (19, 19));
        let other = chat(&[&format!("{}x{}", &long[..2_000], &long[2_001..])]);
        assert_eq!(shared(&first, &other), 7);
        assert_eq!(shared(&first, &chat(&["x", &long])), 0);
    }

    #[test]
    fn spelling_does_not_matter_and_what_keeps_caches_apart_does() {
        let body =
            format!(r#"{{"messages":[{{"role":"user","content":"é{}"}}],"tools":[{{"a":"b c"}}]}}"#, "a".repeat(999));
        let spelled = body.replace('é', "\\u00e9").replace(":[", " : [ ").replace("\"a\":", "\"a\" :\n");
        assert_eq!(of(&body), of(&spelled));
        assert_eq!(of(&body).hashes().len(), 3);
        let request = Request::parse(body.as_bytes()).unwrap();
        for apart in [&["n"][..], &["m", "salt"], &[]] {
            assert_eq!(shared(&of(&body), &survey(&request.text, apart).1), 0);
        }
        assert_ne!(of(&body), of(&body.replace("b c", "bc")));
    }

    #[test]
    fn blocks_grow_with_the_distance_so_that_they_are_few() {
        let count = |kib: usize| of(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(kib * 1024))).hashes().len();
        assert_eq!([1, 32, 64, 256, 1024].map(count), [4, 128, 192, 320, 448]);
        let prefix = of(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(300_000)));
        let mut before = 32 * 1024;
        for block in prefix.blocks.iter().filter(|block| block.end > 32 * 1024) {
            assert!(block.end - before <= before / 64, "{block:?} after {before}");
            before = block.end;
        }
    }

    #[test]
    fn a_block_has_its_share_of_the_tokens() {
        let prefix = of(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(1_000)));
        assert_eq!([0, 1, 3, 9].map(|blocks| prefix.tokens(blocks, Tokens(500)).0), [0, 128, 384, 384]);
        let traced = Prefix::of_blocks([7, 8], Tokens(512), Tokens(1_100));
        assert_eq!([1, 2].map(|blocks| traced.tokens(blocks, Tokens(1_100)).0), [512, 1_024]);
        assert_eq!(Prefix::default().tokens(3, Tokens(5)), Tokens(0));
    }

    #[test]
    fn a_key_is_of_the_beginning_and_of_all_of_what_is_shorter() {
        let long = "y".repeat(5_000);
        assert_eq!(chat(&[&long, "a"]).key(4_096), chat(&[&long, "b"]).key(4_096));
        assert_ne!(chat(&[&long, "a"]).key(8_192), chat(&[&long, "b"]).key(8_192));
        assert_ne!(chat(&["a"]).key(4_096), chat(&["b"]).key(4_096));
    }

    #[test]
    fn hashes_are_the_same_on_every_machine() {
        assert_eq!(of(r#"{"prompt":"a"}"#).key(1_024), 9_464_721_040_299_753_022);
    }
}
