//! One file that is known by size and digest, from the first byte to the last, over any number of attempts.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use reqwest::header::HeaderValue;

use super::answer::{self, Holds, Range};
use super::{Attempt, Client, Expected, Failure, redact};
use crate::digest::{Hasher, Sha256};
use crate::error::{Error, Result};

/// An attempt that brought this much may be followed by as many others, however often the connection breaks.
const WORTHWHILE: u64 = 256 << 10;

pub(super) struct Download<'a> {
    expected: &'a Expected,
    file: &'a mut File,
    path: &'a Path,
    on_bytes: &'a dyn Fn(u64),
    /// Has seen what the file holds.
    hasher: Hasher,
    /// Where the beginning came from in this run, and what that server said to know it by. Over several runs and
    /// between mirrors only the digest tells whether the parts belong together.
    begun: Option<(String, HeaderValue)>,
}

impl<'a> Download<'a> {
    /// Reads what the file holds already; what is longer than it should be is dropped.
    pub(super) fn new(
        expected: &'a Expected,
        file: &'a mut File,
        path: &'a Path,
        on_bytes: &'a dyn Fn(u64),
    ) -> Result<Self> {
        let hasher = hash_present(file, expected.size).map_err(|e| Error::io("read", path, e))?;
        on_bytes(hasher.size());
        Ok(Download {
            expected,
            file,
            path,
            on_bytes,
            hasher,
            begun: None,
        })
    }

    /// Whether everything is there; what has the size but not the digest is dropped.
    pub(super) fn is_finished(&mut self) -> Result<bool> {
        if self.hasher.size() < self.expected.size {
            return Ok(false);
        }
        let finished = self.digest() == self.expected.sha256;
        if !finished {
            self.restart().map_err(|failure| *failure.error)?;
        }
        Ok(finished)
    }

    /// Fetches what is missing from one URL.
    pub(super) fn attempt(&mut self, client: &Client, url: &str) -> Attempt<()> {
        let before = self.hasher.size();
        let outcome = self.fetch_rest(client, url);
        Attempt {
            grew: outcome.is_err() && self.hasher.size() >= before.saturating_add(WORTHWHILE),
            outcome,
        }
    }

    fn fetch_rest(&mut self, client: &Client, url: &str) -> std::result::Result<(), Failure> {
        let resumed = self.hasher.size() > 0;
        self.transfer(client, url)?;
        if self.digest() == self.expected.sha256 {
            return Ok(());
        }
        if resumed {
            // Which of the parts is wrong cannot be known: all of it from one place.
            self.restart()?;
            self.transfer(client, url)?;
            if self.digest() == self.expected.sha256 {
                return Ok(());
            }
        }
        let actual = self.digest().to_string();
        let actual_size = self.hasher.size();
        self.restart()?;
        Err(Failure::other_mirror(Error::Hash {
            name: self.expected.name.clone(),
            origin: redact(url),
            expected: self.expected.sha256.to_string(),
            actual,
            expected_size: self.expected.size,
            actual_size,
        }))
    }

    /// Brings the file to the expected size.
    fn transfer(&mut self, client: &Client, url: &str) -> std::result::Result<(), Failure> {
        let from = self.hasher.size();
        let mut response = None;
        if from > 0 {
            let validator = self.begun.as_ref().filter(|(begun, _)| begun == url);
            let range = Range {
                from,
                validator: validator.map(|(_, value)| value.clone()),
            };
            let answer = client.send(url, Some(&range))?;
            match answer::judge(url, &answer, self.expected, from)? {
                Holds::Rest => response = Some(answer),
                Holds::Everything => {
                    self.restart()?;
                    response = Some(answer);
                }
                Holds::Nonsense => self.restart()?,
            }
        }
        let response = match response {
            Some(response) => response,
            None => {
                let answer = client.send(url, None)?;
                answer::judge(url, &answer, self.expected, 0)?;
                answer
            }
        };
        if self.hasher.size() == 0 {
            self.begun = answer::validator(&response).map(|value| (url.to_string(), value));
        }
        client.read_body(response, url, |chunk| self.append(url, chunk))?;
        match self.hasher.size() < self.expected.size {
            true => Err(Failure::retry(super::no_answer(
                url,
                format!(
                    "it ended after {} of {} bytes",
                    self.hasher.size(),
                    self.expected.size
                ),
            ))),
            false => Ok(()),
        }
    }

    /// Adds bytes, never more than are expected.
    fn append(&mut self, url: &str, chunk: &[u8]) -> std::result::Result<(), Failure> {
        if self.hasher.size() + chunk.len() as u64 > self.expected.size {
            self.restart()?;
            return Err(Failure::other_mirror(Error::Size {
                name: self.expected.name.clone(),
                origin: redact(url),
                expected: self.expected.size,
                actual: format!("more than {}", self.expected.size),
            }));
        }
        self.file.write_all(chunk).map_err(|e| {
            // What was written of the chunk is not known; the next run reads the file anew.
            Failure::stop(Error::io("write", self.path, e))
        })?;
        self.hasher.update(chunk);
        (self.on_bytes)(self.hasher.size());
        Ok(())
    }

    fn restart(&mut self) -> std::result::Result<(), Failure> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| Failure::stop(Error::io("write", self.path, e)))?;
        self.hasher = Hasher::default();
        self.begun = None;
        Ok(())
    }

    fn digest(&self) -> Sha256 {
        self.hasher.clone().finish().0
    }
}

/// Hashes what a file holds and leaves its position at the end.
fn hash_present(file: &mut File, limit: u64) -> std::io::Result<Hasher> {
    if file.metadata()?.len() > limit {
        file.set_len(0)?;
    }
    file.rewind()?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    file.seek(SeekFrom::End(0))?;
    Ok(hasher)
}
