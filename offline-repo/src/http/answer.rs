//! Whether an answer is one to the question: status, lengths, ranges (RFC 9110, sections 13.1.5, 14 and 15).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::{
    CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
};

use super::{Expected, Failure, Next, redact};
use crate::error::Error;

/// A question for the rest of a file.
#[derive(Debug)]
pub(super) struct Range {
    /// Number of bytes that are there already.
    pub(super) from: u64,
    /// The rest is wanted only if the file is still the one that this names; else all of it.
    pub(super) validator: Option<HeaderValue>,
}

impl Range {
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(RANGE, format!("bytes={}-", self.from));
        match &self.validator {
            Some(validator) => request.header(IF_RANGE, validator),
            None => request,
        }
    }
}

/// What a server's answer holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// The file from its beginning.
    Everything,
    /// What was asked for.
    Rest,
    /// Something else: the server cannot be trusted with ranges.
    Nonsense,
}

/// A strong validator of an answer's content; weak ones must not be used with ranges.
pub(super) fn validator(response: &Response) -> Option<HeaderValue> {
    let headers = response.headers();
    let strong = |tag: &&HeaderValue| tag.as_bytes().starts_with(b"\"");
    (headers.get(ETAG).filter(strong))
        .or_else(|| headers.get(LAST_MODIFIED))
        .cloned()
}

/// Refuses whatever is not the whole file.
pub(super) fn whole(url: &str, response: &Response) -> Result<(), Failure> {
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(refused(url, status, response)),
    }
}

/// What the answer to a request for `expected`, from `from` on, holds. A file of another size is refused here,
/// before any of it is read.
pub(super) fn judge(
    url: &str,
    response: &Response,
    expected: &Expected,
    from: u64,
) -> Result<Holds, Failure> {
    let status = response.status();
    let range = (response.headers().get(CONTENT_RANGE))
        .and_then(|value| parse_content_range(value.to_str().ok()?));
    let (holds, size) = match (status, range) {
        (StatusCode::OK, _) => (Holds::Everything, response.content_length()),
        (StatusCode::PARTIAL_CONTENT, Some((Some((first, last)), size)))
            if from > 0 && first == from && last.checked_add(1) == Some(expected.size) =>
        {
            (Holds::Rest, size)
        }
        (StatusCode::PARTIAL_CONTENT, range) if from > 0 => {
            (Holds::Nonsense, range.and_then(|(_, size)| size))
        }
        // The file there ends before what is here already.
        (StatusCode::RANGE_NOT_SATISFIABLE, range) if from > 0 => {
            (Holds::Nonsense, range.and_then(|(_, size)| size))
        }
        _ => return Err(refused(url, status, response)),
    };
    match size {
        Some(size) if size != expected.size => Err(Failure::other_mirror(Error::Size {
            name: expected.name.clone(),
            origin: redact(url),
            expected: expected.size,
            actual: size.to_string(),
        })),
        _ => Ok(holds),
    }
}

fn refused(url: &str, status: StatusCode, response: &Response) -> Failure {
    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    let after = (response.headers().get(RETRY_AFTER))
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs);
    let place = (response.headers().get(LOCATION))
        .and_then(|value| {
            Some(
                redact(value.to_str().ok()?)
                    .escape_debug()
                    .take(200)
                    .collect(),
            )
        })
        .filter(|place: &String| status.is_redirection() && !place.is_empty());
    Failure {
        next: match passing {
            true => Next::Retry(after),
            false => Next::OtherMirror,
        },
        error: Box::new(Error::Http {
            url: redact(url),
            message: match place {
                // One that was not followed.
                Some(place) => format!("the server answered {status}, which leads to {place}"),
                None => format!("the server answered {status}"),
            },
            status: Some(status.as_u16()),
        }),
    }
}

/// First and last byte, unless unsatisfied (`*`), and the size, unless unknown (`*`): `bytes 5-9/10`.
type ContentRange = (Option<(u64, u64)>, Option<u64>);

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let range = match range {
        "*" => None,
        range => {
            let (first, last) = range.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        }
    };
    let size = match size {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some((range, size))
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges_are_read() {
        for (text, expected) in [
            ("bytes 5-9/10", Some((Some((5, 9)), Some(10)))),
            ("Bytes 5-9/*", Some((Some((5, 9)), None))),
            ("bytes */10", Some((None, Some(10)))),
            ("bytes=5-9/10", None),
            ("items 5-9/10", None),
            ("bytes 5-/10", None),
            ("bytes 5-9", None),
            ("bytes 5-99999999999999999999/1", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
