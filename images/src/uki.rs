//! The unified kernel image: systemd's EFI stub with kernel, initial file system and command line as sections.
//!
//! Formats: PE32+ as in Microsoft's "PE Format"; the sections' names and meanings as in the UAPI group's "Unified
//! Kernel Image" specification. Sections are appended behind the stub's own, which stay as they are.

use std::ops::Range;

use crate::error::{Error, Result};

/// A section's header in a PE file.
const SECTION_HEADER: usize = 40;
/// Initialised data, readable.
const CHARACTERISTICS: u32 = 0x4000_0040;
/// PE32+ (64-bit) optional header.
const PE32_PLUS: u16 = 0x20b;
/// Images larger than this are refused, bytes.
const LIMIT: usize = 1 << 30;

/// A section to add.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Name with its dot, at most eight bytes.
    pub name: &'a str,
    /// Content.
    pub data: &'a [u8],
    /// Bytes it occupies in memory, when more than the content has.
    pub memory: u32,
}

/// What goes into an image besides the stub.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Content of os-release(5).
    pub os_release: &'a [u8],
    /// Kernel command line.
    pub command_line: &'a str,
    /// Kernel release.
    pub release: &'a str,
    /// Initial file system.
    pub initrd: &'a [u8],
    /// Kernel image.
    pub kernel: &'a [u8],
}

/// Makes the image.
///
/// The kernel comes last and keeps room for its decompressed size, because the stub may run it in place.
///
/// # Errors
/// When the stub or the kernel is not a PE file of the expected form.
pub fn build(stub: &[u8], parts: &Parts) -> Result<Vec<u8>> {
    let kernel = Pe::parse(parts.kernel).map_err(|reason| malformed("the kernel", reason))?;
    let section = |name, data| Section {
        name,
        data,
        memory: 0,
    };
    let sections = [
        section(".osrel", parts.os_release),
        section(".cmdline", parts.command_line.as_bytes()),
        section(".uname", parts.release.as_bytes()),
        section(".initrd", parts.initrd),
        Section {
            name: ".linux",
            data: parts.kernel,
            memory: kernel.size_of_image,
        },
    ];
    append(stub, &sections).map_err(|reason| malformed("the EFI stub", reason))
}

fn malformed(what: &'static str, reason: &'static str) -> Error {
    Error::Boot {
        what,
        reason: reason.to_owned(),
    }
}

/// The sections of an image, name and content (without the padding in the file).
///
/// # Errors
/// A reason when this is not a PE file of the expected form; arbitrary bytes are fine.
pub fn sections(image: &[u8]) -> std::result::Result<Vec<(String, &[u8])>, &'static str> {
    let list = places(image)?.into_iter();
    Ok(list.map(|(name, place)| (name, &image[place])).collect())
}

/// Where in an image a section is, bytes, without the padding in the file.
///
/// # Errors
/// As [`sections`], and when there is none.
pub fn place(image: &[u8], name: &str) -> std::result::Result<Range<u64>, &'static str> {
    let found = places(image)?.into_iter().find(|(known, _)| known == name);
    let (_, place) = found.ok_or("there is no such section")?;
    Ok(place.start as u64..place.end as u64)
}

/// Names and places of the sections, all within the image.
fn places(image: &[u8]) -> std::result::Result<Vec<(String, Range<usize>)>, &'static str> {
    let pe = Pe::parse(image)?;
    let mut list = Vec::new();
    for header in pe.headers(image) {
        let name: Vec<u8> = header[..8]
            .iter()
            .copied()
            .take_while(|&b| b != 0)
            .collect();
        let (memory, size, at) = (word(header, 8), word(header, 16), word(header, 20));
        let length = size.min(memory.max(1)) as usize;
        let place = at as usize..at as usize + length;
        if place.end > image.len() {
            return Err("a section lies outside of the file");
        }
        list.push((String::from_utf8_lossy(&name).into_owned(), place));
    }
    Ok(list)
}

/// The fields of a PE file that matter here.
pub(crate) struct Pe {
    /// Offset of the PE signature.
    pub(crate) start: usize,
    /// Offset of the first section header.
    table: usize,
    count: usize,
    section_alignment: u32,
    file_alignment: u32,
    size_of_image: u32,
    pub(crate) size_of_headers: u32,
}

impl Pe {
    pub(crate) fn parse(image: &[u8]) -> std::result::Result<Self, &'static str> {
        if image.len() < 0x40 || image.len() > LIMIT || &image[..2] != b"MZ" {
            return Err("it is not a PE file");
        }
        let start = word(image, 0x3c) as usize;
        let optional = start.checked_add(24).ok_or("its header is out of bounds")?;
        let headers = image.get(start..).filter(|rest| rest.len() >= 24 + 112);
        let headers = headers.ok_or("its header is out of bounds")?;
        if &headers[..4] != b"PE\0\0" || half(headers, 24) != PE32_PLUS {
            return Err("it is not a 64-bit PE file");
        }
        let table = optional + usize::from(half(headers, 20));
        let count = usize::from(half(headers, 6));
        let pe = Self {
            start,
            table,
            count,
            section_alignment: word(headers, 24 + 32),
            file_alignment: word(headers, 24 + 36),
            size_of_image: word(headers, 24 + 56),
            size_of_headers: word(headers, 24 + 60),
        };
        let sane = |alignment: u32| alignment.is_power_of_two() && alignment <= 1 << 21;
        if !sane(pe.section_alignment) || !sane(pe.file_alignment) {
            return Err("its alignment is impossible");
        }
        if table + count * SECTION_HEADER > image.len() {
            return Err("its section table is out of bounds");
        }
        Ok(pe)
    }

    pub(crate) fn headers<'a>(&self, image: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        image[self.table..]
            .chunks_exact(SECTION_HEADER)
            .take(self.count)
    }

    /// First file offset and first address behind all sections.
    fn end(&self, image: &[u8]) -> (u64, u64) {
        self.headers(image).fold((0, 0), |(file, memory), h| {
            let raw = u64::from(word(h, 16)) + u64::from(word(h, 20));
            let address = u64::from(word(h, 8)) + u64::from(word(h, 12));
            (file.max(raw), memory.max(address))
        })
    }
}

/// Appends sections to a PE file.
///
/// # Errors
/// A reason when the file is not of the expected form or has no room for more section headers.
pub fn append(image: &[u8], sections: &[Section]) -> std::result::Result<Vec<u8>, &'static str> {
    let pe = Pe::parse(image)?;
    let table_end = pe.table + (pe.count + sections.len()) * SECTION_HEADER;
    let content = pe
        .headers(image)
        .map(|h| word(h, 20))
        .filter(|&at| at != 0)
        .min();
    let room = content.unwrap_or(0).min(pe.size_of_headers) as usize;
    if table_end > room {
        return Err("it has no room for more sections");
    }
    let (end, mut address) = pe.end(image);
    // Whatever lies behind the last section (a signature, symbols) is not part of the new image.
    let mut output = image
        .get(..end as usize)
        .ok_or("a section lies outside of the file")?
        .to_vec();
    let mut added = 0;
    for (index, section) in sections.iter().enumerate() {
        let place = aligned(output.len() as u64, pe.file_alignment);
        let raw = aligned(section.data.len() as u64, pe.file_alignment);
        let memory = (section.data.len() as u64).max(u64::from(section.memory));
        address = aligned(address, pe.section_alignment);
        output.resize(place as usize, 0);
        output.extend_from_slice(section.data);
        output.resize((place + raw) as usize, 0);
        let header = header(section.name, [memory, address, raw, place])?;
        let at = pe.table + (pe.count + index) * SECTION_HEADER;
        output[at..at + SECTION_HEADER].copy_from_slice(&header);
        address += memory;
        added += raw;
    }
    let size_of_image = narrow(aligned(address, pe.section_alignment))?;
    let initialised = narrow(u64::from(word(&output, pe.start + 24 + 8)) + added)?;
    let count = u16::try_from(pe.count + sections.len()).map_err(|_| "it has too many sections")?;
    put(&mut output, pe.start + 6, &count.to_le_bytes());
    put(&mut output, pe.start + 24 + 8, &initialised.to_le_bytes());
    put(
        &mut output,
        pe.start + 24 + 56,
        &size_of_image.to_le_bytes(),
    );
    // The checksum is for drivers of another system, and the certificate table lay behind the last section.
    put(&mut output, pe.start + 24 + 64, &[0; 4]);
    put(&mut output, pe.start + 24 + 112 + 4 * 8, &[0; 8]);
    Ok(output)
}

/// A section header: name; size in memory, address, size in the file, offset in the file; no relocations.
fn header(
    name: &str,
    numbers: [u64; 4],
) -> std::result::Result<[u8; SECTION_HEADER], &'static str> {
    let mut header = [0; SECTION_HEADER];
    let name = name.as_bytes();
    header
        .get_mut(..name.len())
        .filter(|_| name.len() <= 8)
        .ok_or("a section's name is too long")?
        .copy_from_slice(name);
    for (index, number) in numbers.into_iter().enumerate() {
        put(&mut header, 8 + index * 4, &narrow(number)?.to_le_bytes());
    }
    put(&mut header, 36, &CHARACTERISTICS.to_le_bytes());
    Ok(header)
}

fn narrow(number: u64) -> std::result::Result<u32, &'static str> {
    u32::try_from(number).map_err(|_| "it grows beyond 4 GiB")
}

fn aligned(number: u64, to: u32) -> u64 {
    number.next_multiple_of(u64::from(to))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stub with one section, laid out as systemd's: alignments 0x1000 and 0x200, headers of 0x600 bytes.
    pub(crate) fn stub() -> Vec<u8> {
        let mut image = vec![0; 0x800];
        put(&mut image, 0, b"MZ");
        put(&mut image, 0x3c, &0x80u32.to_le_bytes());
        put(&mut image, 0x80, b"PE\0\0");
        put(&mut image, 0x80 + 6, &1u16.to_le_bytes());
        put(&mut image, 0x80 + 20, &240u16.to_le_bytes());
        put(&mut image, 0x98, &PE32_PLUS.to_le_bytes());
        for (at, value) in [(32, 0x1000u32), (36, 0x200), (56, 0x2000), (60, 0x600)] {
            put(&mut image, 0x98 + at, &value.to_le_bytes());
        }
        let text = header(".text", [0x123, 0x1000, 0x200, 0x600]).unwrap();
        put(&mut image, 0x98 + 240, &text);
        // Sixteen data directories.
        put(&mut image, 0x98 + 108, &16u32.to_le_bytes());
        image[0x600] = 0xcc;
        image
    }

    #[test]
    fn appended_sections_are_found_again() {
        let stub = stub();
        let parts = Parts {
            os_release: b"ID=debian\n",
            command_line: "farrow.debug",
            release: "6.12",
            initrd: &[7; 5000],
            kernel: &stub,
        };
        let image = build(&stub, &parts).unwrap();
        let found = sections(&image).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [".text", ".osrel", ".cmdline", ".uname", ".initrd", ".linux"]
        );
        assert_eq!(found[0].1.len(), 0x123);
        assert_eq!(found[1].1, b"ID=debian\n");
        assert_eq!(found[4].1, [7; 5000]);
        assert_eq!(place(&image, ".initrd"), Ok(0xe00..0xe00 + 5000));
        assert!(place(&image, ".dtb").is_err());
        assert_eq!(&found[5].1[..stub.len()], &stub[..]);
        let pe = Pe::parse(&image).unwrap();
        let addresses: Vec<u32> = pe.headers(&image).map(|h| word(h, 12)).collect();
        assert_eq!(addresses, [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x7000]);
        // The kernel keeps the 0x2000 bytes of memory that its own header asks for.
        assert_eq!(pe.size_of_image, 0x9000);
        assert_eq!(image.len() % 0x200, 0);
        assert_eq!(&image[0x600..0x800], &stub[0x600..0x800]);
    }

    #[test]
    fn no_room_for_headers() {
        let section = Section {
            name: ".a",
            data: b"",
            memory: 0,
        };
        assert!(append(&stub(), &[section; 26]).is_ok());
        assert!(append(&stub(), &[section; 40]).is_err());
    }

    /// Damaged headers are refused or parsed, without a panic.
    #[test]
    fn damaged_images() {
        let stub = stub();
        let section = Section {
            name: ".a",
            data: b"x",
            memory: 0,
        };
        for at in 0..0x200 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut image = stub.clone();
                image[at] = value;
                let _ = sections(&image);
                let _ = append(&image, &[section]);
            }
            let _ = sections(&stub[..at]);
        }
    }
}
