//! GRUB's environment block: which version a machine with a BIOS boots.
//!
//! Format: the manual of GRUB 2.12, "The GRUB environment block": 1024 bytes that begin with a fixed line, then one
//! `NAME=VALUE` a line, filled up with `#`. GRUB writes it through a list of the file's sectors, so its place on the disk
//! and its size never change. All that we keep fits into its first sector, which a disk writes whole or not at all.

use std::collections::BTreeMap;

/// Size of the block.
pub const BYTES: usize = 1024;
/// First line.
const SIGNATURE: &str = "# GRUB Environment Block\n";
/// What a disk writes as one.
const SECTOR: usize = 512;
/// The version that is booted.
const DEFAULT: &str = "farrow_default";
/// The version on trial.
const TRIAL: &str = "farrow_trial";
/// How often that is still tried.
const TRIES: &str = "farrow_tries";

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

/// What is booted next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The version without a trial.
    pub default: String,
    /// The version on trial, and its tries.
    pub trial: Option<(String, u32)>,
}

impl Environment {
    /// Reads a block.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(block: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(block).map_err(|_| "it is no text")?;
        if block.len() != BYTES {
            return Err("it has not 1024 bytes");
        }
        let rest = text
            .strip_prefix(SIGNATURE)
            .ok_or("it does not begin as one")?;
        let lines = rest.trim_end_matches('#').lines();
        let pairs = lines
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='));
        Ok(Environment(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    /// The block.
    ///
    /// # Errors
    /// Why it would be none.
    pub fn block(&self) -> Result<Vec<u8>, &'static str> {
        let mut text = SIGNATURE.to_owned();
        for (name, value) in &self.0 {
            if value.contains(['\n', '\\', '#']) {
                return Err("a value has characters that GRUB reads as something else");
            }
            text += &format!("{name}={value}\n");
        }
        if text.len() > SECTOR {
            return Err("it does not fit into one sector");
        }
        let mut block = text.into_bytes();
        block.resize(BYTES, b'#');
        Ok(block)
    }

    /// What is booted next.
    pub fn choice(&self) -> Choice {
        let value = |name: &str| self.0.get(name).cloned().filter(|value| !value.is_empty());
        let tries = value(TRIES)
            .and_then(|tries| tries.parse().ok())
            .unwrap_or(0);
        Choice {
            default: value(DEFAULT).unwrap_or_default(),
            trial: value(TRIAL).map(|trial| (trial, tries)),
        }
    }

    /// The same environment with another choice.
    pub fn with(&self, choice: &Choice) -> Self {
        let mut variables = self.0.clone();
        variables.insert(DEFAULT.to_owned(), choice.default.clone());
        match &choice.trial {
            Some((trial, tries)) => {
                variables.insert(TRIAL.to_owned(), trial.clone());
                variables.insert(TRIES.to_owned(), tries.to_string());
            }
            None => {
                variables.remove(TRIAL);
                variables.remove(TRIES);
            }
        }
        Environment(variables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> Vec<u8> {
        let mut block = format!("{SIGNATURE}{lines}").into_bytes();
        block.resize(BYTES, b'#');
        block
    }

    #[test]
    fn a_block_is_read_and_written() {
        let written = block("farrow_default=base_1\nfarrow_trial=base_2\nfarrow_tries=2\nown=x\n");
        let read = Environment::parse(&written).unwrap();
        let choice = read.choice();
        assert_eq!(choice.default, "base_1");
        assert_eq!(choice.trial, Some(("base_2".to_owned(), 2)));
        assert_eq!(read.block().unwrap(), written);
        let kept = Choice {
            default: "base_2".to_owned(),
            trial: None,
        };
        assert_eq!(
            read.with(&kept).block().unwrap(),
            block("farrow_default=base_2\nown=x\n")
        );
    }

    #[test]
    fn what_grub_or_others_left() {
        for (lines, expected) in [
            (
                "",
                Choice {
                    default: String::new(),
                    trial: None,
                },
            ),
            (
                "farrow_default=a_1\n",
                Choice {
                    default: "a_1".into(),
                    trial: None,
                },
            ),
            (
                "farrow_trial=a_2\nfarrow_tries=x\n",
                Choice {
                    default: String::new(),
                    trial: Some(("a_2".into(), 0)),
                },
            ),
            (
                "farrow_trial=\n# a comment\nnothing\n",
                Choice {
                    default: String::new(),
                    trial: None,
                },
            ),
        ] {
            assert_eq!(
                Environment::parse(&block(lines)).unwrap().choice(),
                expected,
                "{lines}"
            );
        }
    }

    #[test]
    fn wrong_blocks_and_values_are_refused() {
        let mut short = block("");
        short.pop();
        for bad in [&short[..], &[0xff; BYTES], &[b'#'; BYTES], b""] {
            assert!(Environment::parse(bad).is_err());
        }
        for value in ["a\nb", "a\\b", "a#b", &"x".repeat(SECTOR)] {
            let choice = Choice {
                default: value.to_owned(),
                trial: None,
            };
            assert!(
                Environment::default().with(&choice).block().is_err(),
                "{value}"
            );
        }
    }
}
