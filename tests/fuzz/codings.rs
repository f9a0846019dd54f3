//! Untrusted request bodies under a `Content-Encoding`.

#![no_main]

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::{HeaderMap, header};
use libfuzzer_sys::fuzz_target;
use tokenweir::http::{ContentCodings, DecodeError};

const LIMIT_BYTES: usize = 64 << 10;
const LISTS: [&str; 8] =
    ["gzip", "deflate", "zstd", "gzip, zstd", "zstd, deflate", "deflate, gzip", "zstd, zstd", "gzip, deflate, zstd"];

fn decode(list: &str, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, list.parse().unwrap())]);
    let codings = ContentCodings::parse(&headers).unwrap();
    let mut decoded = Vec::new();
    let result = codings.decode(Bytes::copy_from_slice(body), LIMIT_BYTES, |piece| {
        assert!(!piece.is_empty());
        decoded.extend_from_slice(piece);
        Ok(())
    });
    assert!(decoded.len() <= LIMIT_BYTES);
    result.map(|()| decoded)
}

/// Checks that a body which is encoded comes back, and none of it if its end is missing.
fn check_round_trip(body: &[u8]) {
    let written = |mut encoder: Box<dyn Write + '_>| encoder.write_all(body).unwrap();
    let (mut gzip, mut zlib, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    written(Box::new(GzEncoder::new(&mut gzip, Compression::fast())));
    written(Box::new(ZlibEncoder::new(&mut zlib, Compression::fast())));
    written(Box::new(DeflateEncoder::new(&mut bare, Compression::fast())));
    let zstd = zstd::encode_all(body, 1).unwrap();
    for (list, coded) in [("gzip", gzip), ("deflate", zlib), ("deflate", bare), ("zstd", zstd)] {
        // A bare deflate body may begin as zlib does; then it is read as that.
        let is_ambiguous = list == "deflate" && coded.first().is_some_and(|first| first & 0x0f == 8);
        match decode(list, &coded) {
            Ok(decoded) => assert_eq!(decoded, body, "{list}"),
            Err(error) => assert!(is_ambiguous, "{list}: {error:?}"),
        }
        assert!(decode(list, &coded[..coded.len() - 1]).is_err() || is_ambiguous, "{list}: the end is missing");
    }
}

/// Checks that a body which two decoders take is the same for both.
fn check_with_zstd(body: &[u8]) {
    let Ok(decoded) = decode("zstd", body) else { return };
    let mut other = Vec::new();
    if let Ok(decoder) = zstd::Decoder::new(body)
        && decoder.take(LIMIT_BYTES as u64 + 1).read_to_end(&mut other).is_ok()
    {
        assert_eq!(decoded, other);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let _ = decode(LISTS[usize::from(*first) % LISTS.len()], body);
    check_with_zstd(body);
    check_round_trip(body);
});
