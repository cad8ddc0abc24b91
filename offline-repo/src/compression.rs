//! Codecs: bounded decompression of outside input, deterministic compression of what is published.

use std::io::{Read, Write};

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Check, Filters, LzmaOptions, MtStreamBuilder, Stream};

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
/// What unpacking blocks side by side may need; a file whose blocks are larger is unpacked one block after the other.
const XZ_PARALLEL_LIMIT: u64 = 160 << 20;
/// Limits of an xz dictionary: liblzma's `LZMA_DICT_SIZE_MIN` (lzma12.h), and what preset 6 has.
const XZ_SMALLEST: usize = 4096;
const XZ_LARGEST: usize = 8 << 20;
/// Smaller files have one block.
const XZ_PARALLEL_SIZE: usize = 1 << 20;

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
            Codec::Xz => Box::new(XzDecoder::new_stream(
                input,
                Stream::new_stream_decoder(XZ_MEMORY_LIMIT, CONCATENATED)?,
            )),
            Codec::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
        })
    }
}

/// Decompresses at most `limit` bytes; more is an error, so that a small file cannot fill the memory.
pub fn decompress(origin: &str, codec: Codec, input: &[u8], limit: u64) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::invalid(origin, format!("cannot be decompressed: {e}"));
    let output = match codec {
        Codec::Xz if input.len() > XZ_PARALLEL_SIZE => unxz(input, limit),
        _ => codec.reader(input).and_then(|reader| read(reader, limit)),
    };
    let output = output.map_err(fail)?;
    if output.len() as u64 > limit {
        return Err(Error::TooLarge {
            origin: origin.to_string(),
            limit,
        });
    }
    Ok(output)
}

/// All that a reader has, or one byte more than the limit.
fn read(reader: impl Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut output = Vec::new();
    reader.take(limit + 1).read_to_end(&mut output)?;
    Ok(output)
}

/// Debian's archive compresses its indexes in blocks: they are unpacked side by side, which takes half of the time on two
/// cores. That decoder ends after the first of several streams; such a file is unpacked by the other one.
fn unxz(input: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let decoder = MtStreamBuilder::new()
        .threads(threads)
        .memlimit_threading(XZ_PARALLEL_LIMIT)
        .memlimit_stop(XZ_MEMORY_LIMIT)
        .decoder()?;
    let mut decoder = XzDecoder::new_stream(input, decoder);
    let output = read(&mut decoder, limit)?;
    match decoder.total_in() == input.len() as u64 || output.len() as u64 > limit {
        true => Ok(output),
        false => read(Codec::Xz.reader(input)?, limit),
    }
}

/// Gzip without name and time; level 9, since it is written once and read often.
pub fn gzip(input: &[u8]) -> Vec<u8> {
    gzip_at(input, flate2::Compression::best())
}

/// The same for what is written again and again: programs of ours, a tenth larger in a tenth of the time.
pub(crate) fn gzip_fast(input: &[u8]) -> Vec<u8> {
    gzip_at(input, flate2::Compression::fast())
}

fn gzip_at(input: &[u8], level: flate2::Compression) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), level);
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

/// Xz, preset 6, one thread: several threads would cut the stream into other blocks.
///
/// The dictionary is no larger than the input, which changes nothing in the size but saves a quarter of the time: tables for
/// 8 MiB would not fit into a processor's cache.
pub fn xz(input: &[u8]) -> Vec<u8> {
    let size = input.len().next_power_of_two();
    let size = size.clamp(XZ_SMALLEST, XZ_LARGEST) as u32;
    let stream = LzmaOptions::new_preset(6).and_then(|mut options| {
        let mut filters = Filters::new();
        filters.lzma2(options.dict_size(size));
        Stream::new_stream_encoder(&filters, Check::Crc64)
    });
    let stream = stream.expect("a preset with a smaller dictionary is valid");
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
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

    #[test]
    fn blocks_side_by_side_and_several_streams() {
        // Does not compress, so that there are several blocks of a large file.
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let text: Vec<u8> = (0..3 << 20).map(|_| next()).collect();
        let limit = 2 * text.len() as u64;
        let mut stream = MtStreamBuilder::new();
        let stream = stream.threads(2).block_size(1 << 20).preset(0).encoder();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
        encoder.write_all(&text).unwrap();
        let blocks = encoder.finish().unwrap();
        let twice = [&blocks[..], &blocks].concat();
        let unpack = |packed: &[u8], limit| decompress("x", Codec::Xz, packed, limit);
        assert!(unpack(&blocks, limit).unwrap() == text);
        assert!(unpack(&twice, limit).unwrap() == [&text[..], &text].concat());
        assert_eq!(
            unpack(&twice, limit - 1).unwrap_err().code(),
            "FR-REPO-SIZE"
        );
        assert_eq!(unpack(&blocks, 9).unwrap_err().code(), "FR-REPO-SIZE");
        assert!(unpack(&blocks[..blocks.len() - 9], limit).is_err());
        assert!(unpack(&[&blocks[..], b"more"].concat(), limit).is_err());
    }
}
