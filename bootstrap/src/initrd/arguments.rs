//! What the kernel command line says about this boot.

use super::failure::{Failure, Step};

const HINT: &str = "boot another version, or write the image anew";

/// The arguments that this program needs, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// GPT unique id of the root partition, lower-case with dashes (`farrow.root=`).
    pub root: String,
    /// GPT unique id of the partition with the hash tree (`farrow.verity=`).
    pub verity: String,
    /// GPT unique id of the partition of `/var` (`farrow.var=`).
    pub var: String,
    /// SHA-256 root hash of the hash tree, 64 lower-case hex digits (`farrow.roothash=`).
    pub root_hash: String,
    /// Say more in the log (`farrow.debug`).
    pub debug: bool,
}

/// Reads `/proc/cmdline`.
pub fn read() -> Step<Arguments> {
    let text = std::fs::read_to_string("/proc/cmdline").map_err(|e| {
        Failure::new(
            "FR-INIT-ARGUMENTS",
            format!("cannot read /proc/cmdline: {e}"),
            HINT,
        )
    })?;
    parse(&text)
}

/// Parses a kernel command line.
///
/// A value given twice is refused even when a later one could win: firmware or a boot loader may append to a line
/// whose beginning is part of a signed image.
pub fn parse(line: &str) -> Step<Arguments> {
    Ok(Arguments {
        root: partition(line, "farrow.root")?,
        verity: partition(line, "farrow.verity")?,
        var: partition(line, "farrow.var")?,
        root_hash: root_hash(line)?,
        debug: line.split_ascii_whitespace().any(|w| w == "farrow.debug"),
    })
}

fn only<'a>(line: &'a str, key: &str) -> Step<&'a str> {
    let mut values = line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let refuse = |what: &str| {
        let message = format!("kernel argument {key}= {what}");
        Failure::new("FR-INIT-ARGUMENTS", message, HINT)
    };
    let value = values.next().ok_or_else(|| refuse("is missing"))?;
    if values.next().is_some() {
        return Err(refuse("is given twice"));
    }
    Ok(value)
}

fn partition(line: &str, key: &str) -> Step<String> {
    let value = only(line, key)?.to_ascii_lowercase();
    let shape = value.len() == 36
        && value.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    if !shape {
        let message = format!("kernel argument {key}={value} is not a partition id");
        return Err(Failure::new("FR-INIT-ARGUMENTS", message, HINT));
    }
    Ok(value)
}

fn root_hash(line: &str) -> Step<String> {
    let value = only(line, "farrow.roothash")?.to_ascii_lowercase();
    if value.len() != 64 || !value.bytes().all(|b| b.is_ascii_hexdigit()) {
        let message = format!("kernel argument farrow.roothash={value} is not a sha-256 digest");
        return Err(Failure::new("FR-INIT-ARGUMENTS", message, HINT));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    fn line(extra: &str) -> String {
        format!(
            "console=ttyS0 farrow.root={ID} farrow.verity={ID} farrow.var={ID} {extra} panic=10\n"
        )
    }

    #[test]
    fn a_whole_line_is_read() {
        let hash = "AB".repeat(32);
        let arguments = parse(&line(&format!("farrow.roothash={hash} farrow.debug"))).unwrap();
        assert_eq!(arguments.root, ID);
        assert_eq!(arguments.root_hash, "ab".repeat(32));
        assert!(arguments.debug);
    }

    #[test]
    fn wrong_lines_are_refused() {
        let hash = format!("farrow.roothash={}", "0".repeat(64));
        let cases = [
            (line(""), "is missing"),
            (line("farrow.roothash=12"), "is not a sha-256"),
            (line(&format!("{hash} {hash}")), "is given twice"),
            (
                line(&format!("{hash} farrow.root={ID}")),
                "farrow.root= is given twice",
            ),
            (line(&hash).replace(ID, "x"), "is not a partition id"),
            (
                line(&format!("farrow.roothash={}g", "0".repeat(63))),
                "is not a sha-256",
            ),
        ];
        for (line, expected) in cases {
            let message = parse(&line).unwrap_err().message;
            assert!(message.contains(expected), "{message} for {line}");
        }
    }
}
