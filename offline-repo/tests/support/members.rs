//! Bundles taken apart and put together again, with members that no bundle has.

use std::io::{Read, Write};
use std::path::Path;

use tar::{EntryType, Header};

/// A member of a tarball: its header as it is written, and its content.
#[derive(Clone)]
pub struct Member {
    pub header: Header,
    pub content: Vec<u8>,
    /// So many zeros follow the content.
    pub zeros: u64,
}

impl Member {
    /// A member of this type and name; the name is written as it is.
    pub fn new(kind: EntryType, name: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(super::NOW);
        header.set_size(content.len() as u64);
        let field = &mut header.as_gnu_mut().unwrap().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        Member {
            header,
            content: content.to_vec(),
            zeros: 0,
        }
    }

    /// A member of zeros, which are made when it is written.
    fn zeros(kind: EntryType, name: &str, size: u64) -> Self {
        let mut member = Member::new(kind, name, b"").announcing(size);
        member.zeros = size;
        member
    }

    /// A link to somewhere.
    pub fn link(kind: EntryType, name: &str, to: &str) -> Self {
        let mut member = Member::new(kind, name, b"");
        member.header.as_gnu_mut().unwrap().linkname[..to.len()].copy_from_slice(to.as_bytes());
        member.header.set_cksum();
        member
    }

    /// The same with another size in its header.
    pub fn announcing(mut self, size: u64) -> Self {
        self.header.set_size(size);
        self.header.set_cksum();
        self
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(&self.header.path_bytes()).into_owned()
    }
}

/// Members of a bundle.
pub fn read(bundle: &Path) -> Vec<Member> {
    let file = std::fs::File::open(bundle).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().raw(true);
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            let header = entry.header().clone();
            entry.read_to_end(&mut content).unwrap();
            Member {
                header,
                content,
                zeros: 0,
            }
        })
        .collect()
}

/// The tarball of some members.
pub fn write(members: &[Member], mut to: impl Write) {
    for member in members {
        to.write_all(member.header.as_bytes()).unwrap();
        to.write_all(&member.content).unwrap();
        let size = member.content.len() as u64 + member.zeros;
        let padding = size.next_multiple_of(512) - size;
        std::io::copy(
            &mut std::io::repeat(0).take(member.zeros + padding),
            &mut to,
        )
        .unwrap();
    }
    to.write_all(&[0; 1024]).unwrap();
}

/// The same compressed, since some members are large.
pub fn packed(members: &[Member]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write(members, &mut gzip);
    gzip.finish().unwrap()
}

/// Peak memory of this process in kB.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// More than the tests may use of memory.
const HUGE: u64 = 320 << 20;

/// Bundles that must be refused, each with what is wrong with it.
pub fn hostile(good: &Path) -> Vec<(String, Vec<u8>)> {
    let members = read(good);
    let plain = |name: &str| Member::new(EntryType::Regular, name, b"evil");
    let marker = members.len() - 1;
    let with = |more: Vec<Member>| {
        let mut all = members.clone();
        all.splice(marker..marker, more);
        packed(&all)
    };
    let deb = members
        .iter()
        .position(|m| m.name().ends_with(".deb"))
        .unwrap();
    let without = |index: usize| {
        let mut all = members.clone();
        all.remove(index);
        packed(&all)
    };
    let stored = std::fs::read(good).unwrap();
    let device = |kind| Member::new(kind, "pigsty/device", b"");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "a member `pigsty/../../evil`",
            with(vec![plain("pigsty/../../evil")]),
        ),
        ("a member `../evil`", with(vec![plain("../evil")])),
        (
            "a member `/etc/farrow-evil`",
            with(vec![plain("/etc/farrow-evil")]),
        ),
        (
            "a member `pigsty//etc/farrow-evil`",
            with(vec![plain("pigsty//etc/farrow-evil")]),
        ),
        (
            "a member of another folder",
            with(vec![plain("other/file")]),
        ),
        (
            "a symbolic link",
            with(vec![Member::link(
                EntryType::Symlink,
                "pigsty/link",
                "/etc",
            )]),
        ),
        (
            "a symbolic link, and a file behind it",
            with(vec![
                Member::link(EntryType::Symlink, "pigsty/link", "/etc"),
                plain("pigsty/link/farrow-evil"),
            ]),
        ),
        (
            "a hard link",
            with(vec![Member::link(
                EntryType::Link,
                "pigsty/link",
                "/etc/passwd",
            )]),
        ),
        ("a character device", with(vec![device(EntryType::Char)])),
        ("a block device", with(vec![device(EntryType::Block)])),
        ("a named pipe", with(vec![device(EntryType::Fifo)])),
        ("a folder inside", with(vec![device(EntryType::Directory)])),
        ("a member twice", with(vec![members[deb].clone()])),
        (
            "a file below a file",
            with(vec![plain("pigsty/InRelease/x")]),
        ),
        (
            "a name that is not UTF-8",
            with(vec![{
                let mut member = plain("pigsty/x");
                member.header.as_gnu_mut().unwrap().name[7] = 0xff;
                member.header.set_cksum();
                member
            }]),
        ),
        (
            "a member that announces 1 TiB",
            with(vec![plain("pigsty/x").announcing(1 << 40)]),
        ),
        (
            "a member that announces 2^64-1 bytes",
            with(vec![plain("pigsty/x").announcing(u64::MAX)]),
        ),
        ("a sparse member", with(vec![device(EntryType::GNUSparse)])),
        (
            "a long name of 320 MiB",
            with(vec![
                Member::zeros(EntryType::GNULongName, "././@LongLink", HUGE),
                plain("pigsty/x"),
            ]),
        ),
        (
            "extended attributes of 320 MiB",
            with(vec![
                Member::zeros(EntryType::XHeader, "pax", HUGE),
                plain("pigsty/x"),
            ]),
        ),
        (
            "an extended header that gives another name",
            with(vec![
                Member::new(EntryType::XHeader, "pax", b"23 path=/etc/farrow-evi\n"),
                plain("pigsty/x"),
            ]),
        ),
        (
            "a member that unpacks to 320 MiB",
            with(vec![Member::zeros(EntryType::Regular, "pigsty/x", HUGE)]),
        ),
        (
            "a file that the marker does not list",
            with(vec![plain("pigsty/extra")]),
        ),
        ("a listed file is missing", without(deb)),
        ("no key", without(0)),
        ("no marker", without(marker)),
        ("the marker before the files", {
            let mut all = members.clone();
            let last = all.remove(marker);
            all.insert(5, last);
            packed(&all)
        }),
        ("a second tarball behind the first", {
            let more = packed(&[plain("pigsty/x")]);
            [stored.clone(), more].concat()
        }),
        (
            "other bytes behind the end",
            [stored.clone(), b"more".to_vec()].concat(),
        ),
        ("cut off in the middle", stored[..stored.len() / 2].to_vec()),
        (
            "cut off before its last byte",
            stored[..stored.len() - 1].to_vec(),
        ),
        ("not compressed", {
            let mut plain = Vec::new();
            write(&members, &mut plain);
            plain
        }),
        ("empty", Vec::new()),
        ("an empty tarball", packed(&[])),
    ];
    cases
        .into_iter()
        .map(|(name, made)| (name.to_string(), made))
        .collect()
}
