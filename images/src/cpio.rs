//! The archive format that the kernel unpacks its initial file system from.
//!
//! Format: "newc" of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`: ASCII headers of 110
//! bytes, names and contents padded to four bytes. All entries belong to root and are dated 1970, so that the same
//! content always gives the same bytes.

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory with mode 0755.
    Directory,
    /// A file with these permission bits.
    File {
        /// Permission bits, for example `0o755`.
        mode: u32,
        /// Its content.
        content: &'a [u8],
    },
    /// A character device with mode 0600.
    CharacterDevice {
        /// Major device number.
        major: u32,
        /// Minor device number.
        minor: u32,
    },
}

/// Archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_600;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    /// Adds an entry. `path` is relative to the root and its directory must have been added before.
    pub fn add(&mut self, path: &str, kind: Kind) {
        self.entries += 1;
        let (mode, device, content): (u32, (u32, u32), &[u8]) = match kind {
            Kind::Directory => (DIRECTORY, (0, 0), &[]),
            Kind::File { mode, content } => (REGULAR | mode, (0, 0), content),
            Kind::CharacterDevice { major, minor } => (CHARACTER, (major, minor), &[]),
        };
        let links = if kind == Kind::Directory { 2 } else { 1 };
        self.entry(
            [self.entries, mode, links, device.0, device.1],
            path,
            content,
        );
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry([0, 0, 1, 0, 0], TRAILER, &[]);
        self.bytes
    }

    fn entry(&mut self, [inode, mode, links, major, minor]: [u32; 5], name: &str, content: &[u8]) {
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, mtime, size, device major and minor, special major and minor, name size, check
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two entries as GNU cpio 2.13 (`cpio -o -H newc`) writes them, but for inode, times and device.
    #[test]
    fn bytes_of_a_small_archive() {
        let mut archive = Archive::default();
        archive.add("d", Kind::Directory);
        archive.add(
            "d/f",
            Kind::File {
                mode: 0o644,
                content: b"hello",
            },
        );
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let directory = "07070100000001000041ed00000000000000000000000200000000\
                         000000000000000000000000000000000000000000000002\
                         00000000d\0";
        let file = "07070100000002000081a400000000000000000000000100000000\
                    00000005000000000000000000000000000000000000000400000000d/f\0\0\0\
                    hello\0\0\0";
        let trailer = "07070100000000000000000000000000000000000000010000000000000000\
                       000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0";
        assert_eq!(text, format!("{directory}{file}{trailer}"));
        assert_eq!(directory.len() % 4, 0);
    }
}
