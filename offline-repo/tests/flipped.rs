//! A bundle with one bit flipped anywhere is refused, the damage named, and the target left alone.

mod support;

use std::collections::BTreeSet;

use offline_repo::install::install;
use offline_repo::progress::silent;
use support::repository::{built, bundled, content, keyring};
use support::{cases, random, scratch};

/// Offsets, in bits, of what a gzip file holds beside its content and its checksums: the time, the hints about
/// compressor and system, the flag for text (RFC 1952), and the padding before a stored block's length (RFC 1951).
fn idle_bits(bundle: &[u8]) -> BTreeSet<usize> {
    let mut bits: BTreeSet<usize> = (4 * 8..10 * 8).collect();
    bits.insert(3 * 8);
    let mut at = 10;
    while at + 8 < bundle.len() {
        assert_eq!(bundle[at] & 0b110, 0, "a bundle is stored, not compressed");
        bits.extend((3..8).map(|bit| at * 8 + bit));
        let length = u16::from_le_bytes([bundle[at + 1], bundle[at + 2]]);
        let is_last = bundle[at] & 1 == 1;
        at += 5 + usize::from(length);
        if is_last {
            break;
        }
    }
    assert_eq!(at + 8, bundle.len());
    bits
}

#[test]
fn flipped_bits_are_found_and_named() {
    let dir = scratch();
    built(dir.path());
    let path = bundled(dir.path(), dir.path()).path;
    let good = std::fs::read(&path).unwrap();
    let members: Vec<String> = (support::members::read(&path).iter())
        .map(|member| String::from_utf8_lossy(&member.header.path_bytes()).into_owned())
        .collect();
    let target = dir.path().join("www");
    install(&path, &target, Some(&keyring()), &silent).unwrap();
    let before = content(&target);
    let idle = idle_bits(&good);

    let flips = cases(100);
    let mut random = random("one bit flipped", flips);
    // The ends, where the checksums are, and random places.
    let ends = (0..10 * 8)
        .chain((good.len() - 8) * 8..good.len() * 8)
        .step_by(if flips < 1000 { 7 } else { 1 });
    let anywhere = (0..flips).map(|_| random.usize(0..good.len() * 8));
    let bits: Vec<usize> = ends.chain(anywhere).collect();
    let bundle = dir.path().join("flipped.tar.gz");
    let (mut refused, mut named, mut harmless) = (0, 0, 0);
    for bit in bits {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&bundle, bytes).unwrap();
        match install(&bundle, &target, Some(&keyring()), &silent) {
            Ok(_) => {
                assert!(
                    idle.contains(&bit),
                    "bit {bit} was flipped, and nobody noticed"
                );
                harmless += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("flipped.tar.gz"), "bit {bit}: {text}");
                let codes = [
                    "FR-REPO-BUNDLE",
                    "FR-REPO-INCOMPLETE",
                    "FR-LOCK-SIGNATURE",
                    "FR-REPO-SYNTAX",
                ];
                assert!(
                    codes.contains(&error.code()),
                    "bit {bit}: {} {text}",
                    error.code()
                );
                refused += 1;
                let files = members.iter().map(|path| path.rsplit('/').next().unwrap());
                named += u32::from(
                    files
                        .filter(|f| !f.is_empty())
                        .any(|file| text.contains(file)),
                );
            }
        }
        // Refused or without effect: what was installed before is what is there.
        assert_eq!(content(&target), before, "bit {bit}");
    }
    println!(
        "{refused} refused ({named} with the file's name), {harmless} in bits that hold nothing"
    );
    assert!(refused > 0 && named > refused / 2);
}
