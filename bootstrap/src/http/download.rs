//! Large files, read as they come.

use std::io::{self, Read};
use std::time::Duration;

use super::{Exchange, Head, Request};
use crate::error::{Error, Result};

/// Gets a file that is read in pieces; `pause` limits the answer's head, and then each piece.
///
/// # Errors
/// `FR-HTTP`: also an answer other than 200, or one that does not tell its length.
pub fn download(url: &str, pause: Duration) -> Result<Download> {
    let refuse = |message: String| Error::Http {
        url: url.to_owned(),
        message,
    };
    let request = Request {
        url,
        ..Request::default()
    };
    let mut exchange = Exchange::start(&request, pause)?;
    let head = exchange.head().map_err(refuse)?;
    match head {
        Head { status, .. } if status != 200 => Err(refuse(format!("the server answers {status}"))),
        Head { chunked: true, .. } | Head { length: None, .. } => {
            Err(refuse("the server does not tell the file's length".into()))
        }
        Head { length, .. } => Ok(Download {
            left: length.unwrap_or_default(),
            exchange,
            pause,
        }),
    }
}

/// The body of an answer.
pub struct Download {
    exchange: Exchange,
    /// Bytes that are still to come.
    left: usize,
    pause: Duration,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(self.left);
        let ready = wanted.min(self.exchange.buffer.len());
        let count = if ready > 0 {
            let rest = self.exchange.buffer.split_off(ready);
            buffer[..ready].copy_from_slice(&std::mem::replace(&mut self.exchange.buffer, rest));
            ready
        } else {
            self.exchange
                .stream
                .read(&mut buffer[..wanted], self.pause)?
        };
        if count == 0 && wanted > 0 {
            let message = format!(
                "the connection ended {} bytes before the file did",
                self.left
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= count;
        Ok(count)
    }
}
