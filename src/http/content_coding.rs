//! Decoding of request bodies by their `Content-Encoding`: gzip, deflate, zstd and lists of these.
//!
//! The output of every coding counts against the limit of the body, so that neither a body nor what lies between two
//! codings can grow beyond it, whatever its ratio.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, header};
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// The codings of one body at most.
const MAX_CODINGS: usize = 3;
/// The largest window of a zstd frame. Source: RFC 9659, section 3.
const MAX_ZSTD_WINDOW_BYTES: u64 = 8 << 20;
/// The size of the pieces in which a body is decoded.
const PIECE_BYTES: usize = 16 << 10;
/// The longest coding name in an error text.
const MAX_NAME_CHARS: usize = 32;

/// One coding that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Zstd,
}

/// The codings of a body, in the order in which they were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentCodings(Vec<Coding>);

/// Why a body cannot be decoded.
#[derive(Debug)]
pub enum DecodeError {
    /// A coding's output is larger than the limit.
    TooLarge,
    /// There is no memory left for the output.
    NoMemory,
    /// It is not what its codings say.
    Corrupt(io::Error),
}

impl ContentCodings {
    /// Parses `Content-Encoding`. Source: RFC 9110, section 8.4.
    ///
    /// *Errors*: a coding that is not decoded, or more than three, as a list for an error text.
    pub fn parse(headers: &HeaderMap) -> Result<Self, String> {
        let mut codings = Vec::new();
        for line in headers.get_all(header::CONTENT_ENCODING) {
            let Ok(line) = line.to_str() else { return Err("?".to_owned()) };
            for name in line.split(',').map(str::trim) {
                match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => {}
                    "gzip" | "x-gzip" => codings.push(Coding::Gzip),
                    "deflate" => codings.push(Coding::Deflate),
                    "zstd" => codings.push(Coding::Zstd),
                    _ => return Err(name.chars().take(MAX_NAME_CHARS).collect()),
                }
            }
            if codings.len() > MAX_CODINGS {
                return Err(line.chars().take(MAX_NAME_CHARS).collect());
            }
        }
        Ok(Self(codings))
    }

    /// Returns whether the body is not coded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decodes a body and passes its pieces to `take`.
    ///
    /// *Errors*: the body is corrupt or cut, the output of a coding has more than `limit_bytes`, or `take` has failed.
    pub fn decode(
        &self,
        body: Bytes,
        limit_bytes: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut reader: Box<dyn BufRead> = Box::new(io::Cursor::new(body));
        for coding in self.0.iter().rev() {
            let decoder = coding.decoder(reader)?;
            reader =
                Box::new(BufReader::with_capacity(PIECE_BYTES, LimitedReader { decoder, left_bytes: limit_bytes }));
        }
        loop {
            let piece = reader.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            take(piece)?;
            let length = piece.len();
            reader.consume(length);
        }
    }
}

impl Coding {
    /// Returns the decoder of what `body` holds.
    ///
    /// *Errors*: the body does not begin as the coding does.
    fn decoder(self, mut body: Box<dyn BufRead>) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(body)),
            Self::Deflate => {
                let has_header = is_zlib_header(body.fill_buf()?);
                Box::new(InflateReader { body, inflate: Decompress::new(has_header), has_ended: false })
            }
            Self::Zstd => {
                let mut frame = FrameDecoder::new();
                frame.set_max_window_size(MAX_ZSTD_WINDOW_BYTES);
                Box::new(ZstdReader { body, frame })
            }
        })
    }
}

/// Returns whether a body begins as the zlib format does. Some clients send bare deflate data under the same name.
fn is_zlib_header(start: &[u8]) -> bool {
    matches!(start, [method, flags, ..] if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

/// A decoder that fails once its output exceeds a limit.
struct LimitedReader {
    decoder: Box<dyn Read>,
    left_bytes: usize,
}

impl Read for LimitedReader {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(piece)?;
        // `FileTooLarge` comes from no decoder, so it stands for this limit.
        self.left_bytes = self.left_bytes.checked_sub(length).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(length)
    }
}

/// Decoder of deflate data, with or without the zlib format around them. Fails on data that are cut.
struct InflateReader {
    body: Box<dyn BufRead>,
    inflate: Decompress,
    has_ended: bool,
}

impl Read for InflateReader {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        while !self.has_ended {
            let input = self.body.fill_buf()?;
            let is_cut = input.is_empty();
            let (read_before, written_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, piece, FlushDecompress::None).map_err(io::Error::other)?;
            let count = |total: u64, before: u64| usize::try_from(total - before).unwrap_or(usize::MAX);
            self.body.consume(count(self.inflate.total_in(), read_before));
            self.has_ended = status == Status::StreamEnd;
            let written = count(self.inflate.total_out(), written_before);
            if written > 0 {
                return Ok(written);
            }
            if is_cut && !self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// Decoder of zstd frames, one after the other.
struct ZstdReader {
    body: Box<dyn BufRead>,
    frame: FrameDecoder,
}

impl ZstdReader {
    /// Begins the next frame; returns `false` at the end of the body.
    fn start_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.body.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.frame.reset(&mut self.body) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.body).take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl Read for ZstdReader {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;
        loop {
            if self.frame.can_collect() > 0 {
                return self.frame.read(piece);
            }
            if !self.frame.is_finished() {
                self.frame.decode_blocks(&mut self.body, UptoBlocks(1)).map_err(io::Error::other)?;
                continue;
            }
            let sent = self.frame.get_checksum_from_data();
            if sent.is_some() && sent != self.frame.get_calculated_checksum() {
                return Err(io::Error::other("the checksum of a frame does not match"));
            }
            if !self.start_frame()? {
                return Ok(0);
            }
        }
    }
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge { Self::TooLarge } else { Self::Corrupt(error) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    const LIMIT: usize = 512 << 10;

    fn codings(line: &str) -> Result<ContentCodings, String> {
        ContentCodings::parse(&HeaderMap::from_iter([(header::CONTENT_ENCODING, line.parse().unwrap())]))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn decode(line: &str, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut decoded = Vec::new();
        codings(line).unwrap().decode(Bytes::copy_from_slice(body), LIMIT, |piece| {
            decoded.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(decoded)
    }

    #[test]
    fn every_coding_and_list_of_codings_is_decoded() {
        let text: Vec<u8> =
            (0..300_000).map(|index| b"{\"messages\": [1, 2]}"[index % 20] ^ (index / 7_000) as u8).collect();
        for (line, body) in [
            ("gzip", gzip(&text)),
            ("X-GZIP", gzip(&text)),
            ("deflate", zlib(&text)),
            ("deflate", deflate(&text)),
            ("zstd", zstd(&text)),
            ("identity, gzip", gzip(&text)),
            ("deflate, gzip", gzip(&deflate(&text))),
            ("gzip,zstd", zstd(&gzip(&text))),
            ("gzip", [gzip(&text[..9]), gzip(&text[9..])].concat()),
            ("zstd", [zstd(&text[..9]), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(&text[9..])].concat()),
        ] {
            assert!(decode(line, &body).unwrap() == text, "{line}");
        }
        assert!(codings("identity").unwrap().is_empty() && codings("").unwrap().is_empty());
        for (line, named) in [("br", "br"), ("gzip, br", "br"), ("gzip,gzip,gzip,gzip", "gzip,gzip,gzip,gzip")] {
            assert_eq!(codings(line), Err(named.to_owned()));
        }
    }

    #[test]
    fn corrupt_and_cut_bodies_are_errors_and_not_shorter_bodies() {
        let text = b"{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}".repeat(20);
        for (line, body) in
            [("gzip", gzip(&text)), ("deflate", zlib(&text)), ("deflate", deflate(&text)), ("zstd", zstd(&text))]
        {
            for length in 1..body.len() {
                let cut = decode(line, &body[..length]);
                assert!(matches!(cut, Err(DecodeError::Corrupt(_))), "{line} cut at {length}: {cut:?}");
            }
            assert!(matches!(decode(line, &text), Err(DecodeError::Corrupt(_))), "{line} of text");
        }
        let mut broken = zstd(&text);
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert!(matches!(decode("zstd", &broken), Err(DecodeError::Corrupt(_))), "the checksum is checked");
    }

    #[test]
    fn output_of_every_coding_is_limited() {
        let text = vec![b' '; LIMIT];
        let bomb = vec![b' '; LIMIT + 1];
        for (line, encode) in
            [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("deflate", zlib), ("deflate", deflate), ("zstd", zstd)]
        {
            assert_eq!(decode(line, &encode(&text)).unwrap().len(), LIMIT, "{line}");
            assert!(matches!(decode(line, &encode(&bomb)), Err(DecodeError::TooLarge)), "{line}");
            // What lies between two codings is large, and the body is empty.
            let empty_members = gzip(b"").repeat(LIMIT / 10);
            let nested = decode(&format!("gzip, {line}"), &encode(&empty_members));
            assert!(nested.is_err(), "{line}");
        }
    }

    #[test]
    fn zstd_frame_with_a_huge_window_is_refused() {
        // A frame header with a window of 2 GiB, and an empty last block.
        let frame = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00";
        let error = decode("zstd", frame).unwrap_err();
        assert!(matches!(&error, DecodeError::Corrupt(cause) if cause.to_string().contains("indow")), "{error:?}");
    }
}
