//! The table that the image builder writes, grown by the first process' own code, read by a third implementation.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bootstrap::gpt;
use gptman::{GPT, GPTHeader};
use images::partitions::{self, Guid, Role, Wish};

const DISK: &str = "disk";

fn disk(folder: &Path) -> (File, partitions::Layout) {
    let wish = |name, role, mib: u64| Wish {
        name,
        role,
        unique: Guid::derived(&[3; 32], name),
        bytes: mib << 20,
    };
    let wishes = [
        wish("esp", Role::Esp, 4),
        wish("root-a", Role::Root, 6),
        wish("var", Role::Var, 8),
    ];
    let layout = partitions::lay_out(
        Guid::derived(&[3; 32], "disk"),
        images::architecture::Architecture::Amd64,
        &wishes,
    );
    let path = folder.join(DISK);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    partitions::write(&layout, &mut file, &path).unwrap();
    (file, layout)
}

fn head(file: &File) -> Vec<u8> {
    let mut head = vec![0; gpt::HEAD_SECTORS * gpt::SECTOR];
    file.read_exact_at(&mut head, 0).unwrap();
    head
}

#[test]
fn ids_are_the_ones_that_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let (file, layout) = disk(folder.path());
    let expected: Vec<(u32, String)> = (1..)
        .zip(&layout.partitions)
        .map(|(n, p)| (n, p.unique.text()))
        .collect();
    assert_eq!(gpt::unique_ids(&head(&file)).unwrap(), expected);
}

/// Two growths one after the other, with a look at the primary table after every write, as after a power cut.
#[test]
fn growth_is_whole_at_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let (mut file, layout) = disk(folder.path());
    let var = layout.partitions[2].clone();
    let mut length = var.sectors;
    for size in [64 << 20, 1 << 40] {
        file.set_len(size).unwrap();
        let growth = gpt::plan(&head(&file), size / 512, &var.unique.text())
            .unwrap()
            .unwrap();
        assert_eq!((growth.number, growth.start), (3, var.start));
        for write in &growth.writes {
            file.write_all_at(&write.bytes, write.lba * 512).unwrap();
            file.rewind().unwrap();
            let found = GPT::read_from(&mut file, 512).unwrap();
            assert!(found.is_primary());
            let now = found[3].size().unwrap();
            assert!(now == length || now == growth.sectors, "{now} sectors");
        }
        length = growth.sectors;
        check_both_tables(&mut file, size, length);
        assert_eq!(
            gpt::plan(&head(&file), size / 512, &var.unique.text()),
            Ok(None)
        );
    }
}

fn check_both_tables(file: &mut File, size: u64, var_sectors: u64) {
    let layout = partitions::read(file, Path::new(DISK)).unwrap();
    let last = layout.partitions.last().unwrap();
    assert_eq!((last.name.as_str(), last.sectors), ("var", var_sectors));
    assert!((last.start + last.sectors) * 512 > size - (3 << 20));
    file.seek(std::io::SeekFrom::Start(size - 512)).unwrap();
    let backup = GPTHeader::read_from(file).unwrap();
    assert!(backup.is_backup());
    let entries = backup.read_partitions(file, 512).unwrap();
    assert_eq!(entries[2].size().unwrap(), var_sectors);
    assert_eq!(
        backup.generate_partition_entry_array_crc32(&entries),
        backup.partition_entry_array_crc32
    );
}

/// Whatever lies on a disk, the first process must not panic over it.
#[test]
fn arbitrary_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, layout) = disk(folder.path());
    let good = head(&file);
    let unique = layout.partitions[2].unique.text();
    let mut random = File::open("/dev/urandom").unwrap();
    let mut noise = vec![0; 4 * 2000];
    random.read_exact(&mut noise).unwrap();
    for change in noise.chunks_exact(4) {
        let mut bytes = good.clone();
        let at = 512 + usize::from(u16::from_le_bytes([change[0], change[1]])) % 1200;
        bytes[at] = change[2];
        let cut = good.len() - usize::from(change[3] & 1);
        let _ = gpt::plan(&bytes[..cut], 1 << 20, &unique);
        let _ = gpt::unique_ids(&bytes[..cut]);
    }
}
