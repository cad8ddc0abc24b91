//! A client of QEMU's machine protocol: JSON lines over a Unix socket.
//! Format: QEMU's "QEMU Machine Protocol Specification" (docs/interop/qmp-spec).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest message accepted, in bytes. The longest that is asked for here has a few kilobytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Events kept until somebody takes them; the oldest go first.
const MAX_EVENTS: usize = 256;

/// One message from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first one, before the handshake.
    Greeting,
    /// A command succeeded with this result.
    Return(Value),
    /// A command failed.
    Error {
        /// Class, such as `GenericError`.
        class: String,
        /// The message.
        description: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened to the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Name, such as `SHUTDOWN` or `RESET`.
    pub name: String,
    /// What belongs to it; `null` when there is nothing.
    pub data: Value,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<WireError>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct WireError {
    class: String,
    desc: String,
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it, as text.
pub fn parse(line: &str) -> Result<Message, String> {
    let wire: Wire = serde_json::from_str(line).map_err(|e| format!("malformed message: {e}"))?;
    match wire {
        Wire { error: Some(e), .. } => Ok(Message::Error {
            class: e.class,
            description: e.desc,
        }),
        Wire {
            result: Some(r), ..
        } => Ok(Message::Return(r)),
        Wire {
            event: Some(name),
            data,
            ..
        } => Ok(Message::Event(Event { name, data })),
        Wire {
            greeting: Some(_), ..
        } => Ok(Message::Greeting),
        _ => Err(format!("unknown message {line}")),
    }
}

/// A connection that has done the handshake.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    events: VecDeque<Event>,
    limit: Duration,
}

impl Qmp {
    /// Connects to the socket `name` in `folder`; each answer may take `limit`.
    ///
    /// # Errors
    /// Why there is no conversation, as text.
    pub fn connect(folder: &Path, name: &str, limit: Duration) -> Result<Qmp, String> {
        let folder = File::options()
            .read(true)
            .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
            .open(folder)
            .map_err(|e| format!("cannot open {}: {e}", folder.display()))?;
        // Through the open folder, since socket addresses end at 107 bytes (unix(7)).
        let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        let stream = UnixStream::connect(path).map_err(|e| format!("cannot connect: {e}"))?;
        Qmp::handshake(stream, limit)
    }

    fn handshake(stream: UnixStream, limit: Duration) -> Result<Qmp, String> {
        let mut qmp = Qmp {
            stream,
            buffer: Vec::new(),
            events: VecDeque::new(),
            limit,
        };
        match qmp.receive(Instant::now() + limit)? {
            Some(Message::Greeting) => {}
            other => return Err(format!("expected a greeting, got {other:?}")),
        }
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Runs a command; `arguments` may be `null`.
    ///
    /// # Errors
    /// QEMU's error, or why there was no answer, as text.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let deadline = Instant::now() + self.limit;
        let line = format!("{request}\n");
        let sent = self.stream.set_write_timeout(Some(self.limit));
        sent.and_then(|()| self.stream.write_all(line.as_bytes()))
            .map_err(|e| format!("cannot send {command}: {e}"))?;
        loop {
            match self.receive(deadline)? {
                Some(Message::Return(value)) => return Ok(value),
                Some(Message::Error { class, description }) => {
                    return Err(format!("{command}: {description} ({class})"));
                }
                Some(Message::Event(event)) => self.keep(event),
                Some(Message::Greeting) => return Err("unexpected greeting".to_owned()),
                None => {
                    let seconds = self.limit.as_secs();
                    return Err(format!("{command}: no answer within {seconds} s"));
                }
            }
        }
    }

    /// Runs a command of the human monitor and gives what it would have printed.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn human(&mut self, command: &str) -> Result<String, String> {
        let arguments = json!({ "command-line": command });
        let answer = self.execute("human-monitor-command", arguments)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The machine's run state: `running`, `shutdown`, `guest-panicked` and others.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn status(&mut self) -> Result<String, String> {
        let answer = self.execute("query-status", Value::Null)?;
        Ok(answer["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// The events that arrived since the last call, oldest first. Does not wait.
    ///
    /// # Errors
    /// That the connection is over, once no event is left.
    pub fn events(&mut self) -> Result<Vec<Event>, String> {
        loop {
            // A zero timeout means "for ever" to the system call, so one millisecond it is.
            match self.receive(Instant::now() + Duration::from_millis(1)) {
                Ok(Some(Message::Event(event))) => self.keep(event),
                Ok(Some(_)) => {}
                Err(error) if self.events.is_empty() => return Err(error),
                Ok(None) | Err(_) => return Ok(self.events.drain(..).collect()),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next message, or `None` when the deadline comes first.
    fn receive(&mut self, deadline: Instant) -> Result<Option<Message>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return parse(String::from_utf8_lossy(&line).trim()).map(Some);
            }
            if self.buffer.len() > MAX_MESSAGE {
                return Err(format!("a message has more than {MAX_MESSAGE} bytes"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.fill(left)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; false: nothing came in time.
    fn fill(&mut self, limit: Duration) -> Result<bool, String> {
        let mut chunk = [0; 4096];
        let timeout = self.stream.set_read_timeout(Some(limit));
        match timeout.and_then(|()| self.stream.read(&mut chunk)) {
            Ok(0) => Err("connection closed".to_owned()),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(false)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(format!("cannot read: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const LIMIT: Duration = Duration::from_secs(2);
    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}}}"#;

    #[test]
    fn messages_are_read() {
        let event = |name: &str, data| {
            Message::Event(Event {
                name: name.to_owned(),
                data,
            })
        };
        let error = Message::Error {
            class: "CommandNotFound".to_owned(),
            description: "no x".to_owned(),
        };
        let cases = [
            (GREETING, Message::Greeting),
            (r#"{"return": {}}"#, Message::Return(json!({}))),
            (r#"{"return": [1], "id": 4}"#, Message::Return(json!([1]))),
            (
                r#"{"error": {"class": "CommandNotFound", "desc": "no x"}}"#,
                error,
            ),
            (
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
                event("STOP", Value::Null),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": true}}"#,
                event("SHUTDOWN", json!({"guest": true})),
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Ok(expected), "failed case: {line}");
        }
        for line in ["", "{", "[]", "{}", r#"{"error": "x"}"#, r#"{"event": 5}"#] {
            assert!(parse(line).is_err(), "accepted: {line}");
        }
    }

    /// A peer that answers each request line with the next of `answers`, sent in two pieces.
    fn peer(answers: &[&str]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let answers: Vec<String> = answers.iter().map(|a| format!("{a}\n")).collect();
        std::thread::spawn(move || {
            let mut requests = BufReader::new(theirs.try_clone().unwrap()).lines();
            let mut theirs = theirs;
            for (index, answer) in answers.iter().enumerate() {
                if index > 0 && requests.next().is_none() {
                    return;
                }
                let (head, tail) = answer.split_at(answer.len() / 2);
                theirs.write_all(head.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                theirs.write_all(tail.as_bytes()).unwrap();
            }
        });
        ours
    }

    #[test]
    fn commands_are_answered_and_events_between_are_kept() {
        let event = r#"{"event": "RESET"}"#;
        let status = format!("{event}\n{}", r#"{"return": {"status": "running"}}"#);
        let failed = r#"{"error": {"class": "GenericError", "desc": "no such thing"}}"#;
        let answers = [GREETING, r#"{"return": {}}"#, &status, failed];
        let mut qmp = Qmp::handshake(peer(&answers), LIMIT).unwrap();
        assert_eq!(qmp.status(), Ok("running".to_owned()));
        assert_eq!(
            qmp.execute("x", Value::Null),
            Err("x: no such thing (GenericError)".to_owned())
        );
        assert_eq!(qmp.events().unwrap()[0].name, "RESET");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(qmp.events(), Err("connection closed".to_owned()));
    }

    #[test]
    fn a_silent_or_wrong_peer_is_an_error() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let start = Instant::now();
        assert!(Qmp::handshake(ours, Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < LIMIT);
        let error = Qmp::handshake(peer(&["SSH-2.0-x"]), LIMIT).unwrap_err();
        assert!(error.starts_with("malformed message"), "{error}");
    }

    #[test]
    fn an_endless_message_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || while theirs.write_all(&[b'x'; 65536]).is_ok() {});
        let error = Qmp::handshake(ours, LIMIT).unwrap_err();
        assert!(error.contains("more than"), "{error}");
        writer.join().unwrap();
    }
}
