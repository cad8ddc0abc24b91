//! Codecs: bounded decompression of outside input, deterministic compression of what is published.

use std::io::{Read, Write};

use crate::error::{Error, Result};

/// A compression, recognised by the end of a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    Plain,
    /// `.gz`
    Gzip,
    /// `.xz`
    Xz,
    /// `.zst`
    Zstd,
}

/// xz(1) needs 65 MiB to unpack what its highest preset made; a header may ask for 4 GiB.
const XZ_MEMORY_LIMIT: u64 = 256 << 20;

impl Codec {
    /// The codec of a file name.
    pub fn of_name(name: &str) -> Self {
        match name.rsplit('.').next() {
            Some("gz") => Codec::Gzip,
            Some("xz") => Codec::Xz,
            Some("zst") => Codec::Zstd,
            _ => Codec::Plain,
        }
    }

    /// A decompressing reader.
    pub fn reader<'a>(self, input: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Codec::Plain => Box::new(input),
            Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            // Concatenated streams are what xz(1) writes in parallel mode.
            Codec::Xz => Box::new(liblzma::read::XzDecoder::new_stream(
                input,
                liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY_LIMIT,
                    liblzma::stream::CONCATENATED,
                )?,
            )),
            Codec::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
        })
    }
}

/// Decompresses at most `limit` bytes; more is an error, so that a small file cannot fill the memory.
pub fn decompress(origin: &str, codec: Codec, input: &[u8], limit: u64) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::invalid(origin, format!("cannot be decompressed: {e}"));
    let reader = codec.reader(input).map_err(fail)?;
    let mut output = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut output)
        .map_err(fail)?;
    if output.len() as u64 > limit {
        return Err(Error::TooLarge {
            origin: origin.to_string(),
            limit,
        });
    }
    Ok(output)
}

/// Gzip without name and time; level 9, since it is written once and read often.
pub fn gzip(input: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), flate2::Compression::best());
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

/// Xz, preset 6, one thread: several threads would cut the stream into other blocks.
pub fn xz(input: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_round_trips() {
        let text = "Package: a\n".repeat(1000).into_bytes();
        for (codec, packed) in [
            (Codec::Plain, text.clone()),
            (Codec::Gzip, gzip(&text)),
            (Codec::Xz, xz(&text)),
            (Codec::Zstd, zstd::encode_all(&text[..], 3).unwrap()),
        ] {
            assert_eq!(
                decompress("x", codec, &packed, text.len() as u64).unwrap(),
                text
            );
            let error = decompress("x", codec, &packed, text.len() as u64 - 1).unwrap_err();
            assert_eq!(error.code(), "FR-REPO-SIZE", "{codec:?}");
            if codec != Codec::Plain {
                assert!(
                    decompress("x", codec, &packed[..packed.len() / 2], 1 << 20).is_err(),
                    "{codec:?}"
                );
                assert!(
                    decompress("x", codec, b"\x01garbage", 1 << 20).is_err(),
                    "{codec:?}"
                );
            }
        }
    }
}
