//! Tables before and after a change, also after a part of its writes.

use super::*;

const UNIQUE: &str = "03020100-0504-0706-0809-0a0b0c0d0e0f";

/// A disk of 8192 sectors with one partition from sector 2048 to 4095.
fn head() -> Vec<u8> {
    let mut entries = vec![0; ENTRY_SECTORS * SECTOR];
    entries[..16].fill(1);
    for i in 0..16 {
        entries[16 + i] = i as u8;
    }
    entries[32..40].copy_from_slice(&2048u64.to_le_bytes());
    entries[40..48].copy_from_slice(&4095u64.to_le_bytes());
    let mut header = vec![0; SECTOR];
    header[..8].copy_from_slice(b"EFI PART");
    header[12] = 92;
    header[40..48].copy_from_slice(&2048u64.to_le_bytes());
    header[80] = 128;
    header[84] = 128;
    let table = Table {
        header: &header,
        entries: &entries,
        disk_sectors: 8192,
        last_usable: 8158,
    };
    let mut head = vec![0; HEAD_SECTORS * SECTOR];
    head[SECTOR..2 * SECTOR].copy_from_slice(&table.new_header(1, 8191, 2));
    head[2 * SECTOR..][..entries.len()].copy_from_slice(&entries);
    head
}

#[test]
fn crc_of_the_standard_check_string() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

/// After any prefix of the writes, a reader finds a whole primary table, old or new.
#[test]
fn every_prefix_of_the_writes_leaves_a_whole_table() {
    let head = head();
    let growth = plan(&head, 100_000, UNIQUE).unwrap().unwrap();
    assert_eq!((growth.number, growth.start), (1, 2048));
    assert_eq!((growth.start + growth.sectors) % ALIGNMENT, 0);
    for done in 0..=growth.writes.len() {
        let mut disk = head.clone();
        disk.resize(100_000 * SECTOR, 0);
        for write in &growth.writes[..done] {
            let at = write.lba as usize * SECTOR;
            disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        let again = plan(&disk, 100_000, UNIQUE).unwrap();
        assert_eq!(again.is_none(), done >= 3, "after {done} writes");
    }
}

#[test]
fn ids_by_number() {
    assert_eq!(unique_ids(&head()).unwrap(), [(1, UNIQUE.to_owned())]);
    assert!(unique_ids(&[0; HEAD_SECTORS * SECTOR]).is_err());
}

/// After any prefix of the writes, a reader finds the old or the new id, in a whole table.
#[test]
fn other_ids() {
    let mut head = head();
    head.resize(8192 * SECTOR, 0);
    let new: [u8; 16] = std::array::from_fn(|i| 0xf0 + i as u8);
    let text = "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff";
    for (round, id) in [(0, new), (1, [9; 16]), (2, new)] {
        let old = partitions(&head).unwrap();
        let writes = with_ids(&head, &[(1, id)]).unwrap();
        assert_eq!(writes[1].lba, PLACES[usize::from(round % 2 == 0)]);
        for done in 0..=writes.len() {
            let mut disk = head.clone();
            for write in &writes[..done] {
                let at = write.lba as usize * SECTOR;
                disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            }
            let found = partitions(&disk).unwrap();
            assert_eq!(
                found != old,
                done == 3,
                "round {round}, after {done} writes"
            );
            if done == 3 {
                assert_eq!(found[0].unique == text, id == new);
                assert_eq!((found[0].start, found[0].sectors), (2048, 2048));
                assert_eq!(disk[..SECTOR], head[..SECTOR]);
                head = disk;
            }
        }
    }
    for number in [0, 2, 129, u32::MAX] {
        assert!(with_ids(&head, &[(number, new)]).is_err(), "{number}");
    }
    assert!(with_ids(&head[..1000], &[(1, new)]).is_err());
}

#[test]
fn names_and_impossible_bounds() {
    let mut entry = [0; ENTRY];
    for (i, unit) in "root-b".encode_utf16().enumerate() {
        entry[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
    }
    assert_eq!(name(&entry), "root-b");
    entry[56..].fill(0xd8);
    assert_eq!(name(&entry).chars().count(), 36);
    let mut head = head();
    for (start, end) in [(10u64, 9u64), (0, u64::MAX)] {
        head[2 * SECTOR + 32..2 * SECTOR + 40].copy_from_slice(&start.to_le_bytes());
        head[2 * SECTOR + 40..2 * SECTOR + 48].copy_from_slice(&end.to_le_bytes());
        let sum = crc32(&head[2 * SECTOR..][..ENTRY_SECTORS * SECTOR]);
        head[SECTOR + 88..SECTOR + 92].copy_from_slice(&sum.to_le_bytes());
        let sum = header_sum(&head[SECTOR..2 * SECTOR]);
        head[SECTOR + 16..SECTOR + 20].copy_from_slice(&sum.to_le_bytes());
        assert!(partitions(&head).is_err());
    }
}

#[test]
fn a_second_growth_uses_the_first_place_again() {
    let mut head = head();
    for (disk, place) in [
        (100_000, PLACES[1]),
        (200_000, PLACES[0]),
        (300_000, PLACES[1]),
    ] {
        let growth = plan(&head, disk, UNIQUE).unwrap().unwrap();
        assert_eq!(growth.writes[1].lba, place);
        for write in &growth.writes[1..] {
            let at = write.lba as usize * SECTOR;
            head[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
    }
}

#[test]
fn nothing_to_gain_or_not_ours() {
    let head = head();
    assert_eq!(plan(&head, 6000, UNIQUE), Ok(None));
    assert!(plan(&head, 33, UNIQUE).is_err());
    assert!(plan(&head, 100_000, &UNIQUE.replace('f', "0")).is_err());
    assert!(plan(&head[..1000], 100_000, UNIQUE).is_err());
    for at in [SECTOR, SECTOR + 40, SECTOR + 73, 2 * SECTOR + 40] {
        let mut damaged = head.clone();
        damaged[at] ^= 1;
        assert!(plan(&damaged, 100_000, UNIQUE).is_err(), "byte {at}");
    }
}
