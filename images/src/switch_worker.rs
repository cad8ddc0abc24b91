//! The thread of a [`Switch`](crate::switch::Switch): waits for frames, forwards them, keeps late ones.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::switch::{Counters, Port, Shared};
use crate::switch_table::{PortIndex, Random, Route, Rules, Table, Verdict};

/// Longest frame taken: QEMU's own buffer (`NET_BUFSIZE`, 4 KiB + 64 KiB).
const MAX_FRAME: usize = 69632;

/// Frames read from one port before the others get their turn.
const BATCH: usize = 64;

/// Frames kept for one machine that does not take them; a socket itself holds ten by default.
const MAX_QUEUE: usize = 1024;

/// Frames kept for rules that delay.
const MAX_DELAYED: usize = 65536;

/// How long to wait for a machine to make room: its socket does not tell when it has.
const RETRY: Duration = Duration::from_micros(200);

/// A frame on its way: due time, a number that keeps equal times in order, port and content.
type Delayed = (Instant, u64, PortIndex, Vec<u8>);

/// The state of the thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    woken: UnixDatagram,
    ports: Vec<Arc<Port>>,
    rules: Rules,
    counters: Vec<Counters>,
    table: Table,
    random: Random,
    queues: Vec<VecDeque<Vec<u8>>>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    sequence: u64,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, woken: UnixDatagram, seed: u64) -> Worker {
        Worker {
            shared,
            woken,
            ports: Vec::new(),
            rules: Rules::default(),
            counters: Vec::new(),
            table: Table::default(),
            random: Random::new(seed),
            queues: Vec::new(),
            delayed: BinaryHeap::new(),
            sequence: 0,
        }
    }

    /// Forwards frames until the switch is told to stop.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; MAX_FRAME + 1];
        loop {
            self.shared.control().counters.clone_from(&self.counters);
            let readable = self.wait();
            // After the wait: rules that were set before a frame was sent are in force when it is read.
            if !self.synchronise() {
                return;
            }
            for port in readable {
                self.receive(port, &mut buffer);
            }
            self.deliver_due();
            for port in 0..self.ports.len() {
                self.flush(port);
            }
        }
    }

    /// Takes over what callers changed; false: stop.
    fn synchronise(&mut self) -> bool {
        while self.woken.recv(&mut [0; 8]).is_ok() {}
        let control = self.shared.control();
        for port in &control.ports[self.ports.len()..] {
            self.ports.push(port.clone());
            self.queues.push(VecDeque::new());
            self.counters.push(Counters::default());
        }
        if self.rules != control.rules {
            self.rules = control.rules.clone();
        }
        !control.stop
    }

    /// Sleeps until something is to be done; the ports that have frames.
    fn wait(&self) -> Vec<PortIndex> {
        let sockets = std::iter::once(self.woken.as_fd()).chain(self.ports.iter().map(AsFd::as_fd));
        let mut polled: Vec<_> = sockets
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = self.timeout().map(TimeSpec::from_duration);
        if ppoll(&mut polled, timeout, None).is_err() {
            // EINTR, or no memory for a moment: the next round asks again.
            return Vec::new();
        }
        let ports = polled.iter().skip(1).enumerate();
        ports
            .filter(|(_, fd)| fd.any().unwrap_or(true))
            .map(|(port, _)| port)
            .collect()
    }

    fn timeout(&self) -> Option<Duration> {
        if self.queues.iter().any(|queue| !queue.is_empty()) {
            return Some(RETRY);
        }
        let Reverse((due, ..)) = self.delayed.peek()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn receive(&mut self, from: PortIndex, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Ok(length) = self.ports[from].socket.recv(buffer) else {
                return;
            };
            if length > MAX_FRAME {
                self.counters[from].malformed += 1;
                continue;
            }
            self.counters[from].received += 1;
            self.forward(from, &buffer[..length]);
        }
    }

    fn forward(&mut self, from: PortIndex, frame: &[u8]) {
        match self.table.route(from, frame, Instant::now()) {
            Route::One(to) => self.send(from, to, frame),
            Route::Flood => {
                for to in (0..self.ports.len()).filter(|to| *to != from) {
                    self.send(from, to, frame);
                }
            }
            Route::Stay => {}
            Route::Malformed => self.counters[from].malformed += 1,
        }
    }

    fn send(&mut self, from: PortIndex, to: PortIndex, frame: &[u8]) {
        let random = || self.random.next_unit();
        let names = (&self.ports[from].name, &self.ports[to].name);
        match self.rules.verdict(names.0, names.1, random) {
            Verdict::Drop => self.counters[to].lost_by_rule += 1,
            Verdict::Pass(Duration::ZERO) => self.enqueue(to, frame.to_vec()),
            Verdict::Pass(_) if self.delayed.len() >= MAX_DELAYED => {
                self.counters[to].lost_full += 1;
            }
            Verdict::Pass(delay) => {
                self.sequence += 1;
                let due = Instant::now() + delay;
                self.delayed
                    .push(Reverse((due, self.sequence, to, frame.to_vec())));
            }
        }
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = self.delayed.peek() {
            if *due > now {
                return;
            }
            if let Some(Reverse((_, _, to, frame))) = self.delayed.pop() {
                self.enqueue(to, frame);
            }
        }
    }

    fn enqueue(&mut self, to: PortIndex, frame: Vec<u8>) {
        if self.queues[to].len() >= MAX_QUEUE {
            self.counters[to].lost_full += 1;
            return;
        }
        self.queues[to].push_back(frame);
        self.flush(to);
    }

    /// Hands queued frames to the machine, in order, until it takes no more.
    fn flush(&mut self, to: PortIndex) {
        while let Some(frame) = self.queues[to].front() {
            let port = &self.ports[to];
            match port.socket.send_to(frame, &port.machine) {
                Ok(_) => self.counters[to].sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Not started yet, stopped, or just being replaced: a network loses such frames too.
                Err(_) => self.counters[to].lost_absent += 1,
            }
            self.queues[to].pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::Switch;
    use crate::switch_table::Action;
    use std::path::Path;

    const BROADCAST: u8 = 0xff;

    /// A frame whose addresses are one byte repeated (even: a single machine), and its payload.
    fn frame(to: u8, from: u8, payload: &[u8]) -> Vec<u8> {
        [&[to; 6][..], &[from; 6], &[0x88, 0xb5], payload].concat()
    }

    struct Guest {
        socket: UnixDatagram,
        switch: std::path::PathBuf,
    }

    impl Guest {
        fn new(switch: &Switch, folder: &Path, name: &str) -> Guest {
            switch.add_port(name).unwrap();
            let socket = UnixDatagram::bind(folder.join(format!("{name}.machine"))).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            Guest {
                socket,
                switch: folder.join(format!("{name}.switch")),
            }
        }

        fn send(&self, frame: &[u8]) {
            self.socket.send_to(frame, &self.switch).unwrap();
        }

        fn receive(&self) -> Option<Vec<u8>> {
            let mut buffer = vec![0; MAX_FRAME];
            let length = self.socket.recv(&mut buffer).ok()?;
            buffer.truncate(length);
            Some(buffer)
        }
    }

    fn network(names: &[&str]) -> (tempfile::TempDir, Switch, Vec<Guest>) {
        let folder = tempfile::tempdir().unwrap();
        let switch = Switch::start(folder.path(), 1).unwrap();
        let guests = names
            .iter()
            .map(|name| Guest::new(&switch, folder.path(), name))
            .collect();
        (folder, switch, guests)
    }

    #[test]
    fn frames_flood_until_the_receiver_is_known() {
        let (_folder, switch, guests) = network(&["a", "b", "c"]);
        let question = frame(BROADCAST, 2, b"who is 4");
        guests[0].send(&question);
        assert_eq!(guests[1].receive(), Some(question.clone()));
        assert_eq!(guests[2].receive(), Some(question));
        let answer = frame(2, 4, b"me");
        guests[1].send(&answer);
        assert_eq!(guests[0].receive(), Some(answer));
        assert_eq!(
            guests[2].receive(),
            None,
            "c must not see what is between a and b"
        );
        assert_eq!(switch.counters()["c"].sent, 1);
        assert_eq!(switch.counters()["a"].received, 1);
    }

    #[test]
    fn malformed_frames_are_counted_and_go_nowhere() {
        let (_folder, switch, guests) = network(&["a", "b"]);
        guests[0].send(&[BROADCAST; 13]);
        guests[0].send(&vec![BROADCAST; MAX_FRAME + 1]);
        assert_eq!(guests[1].receive(), None);
        assert_eq!(switch.counters()["a"].malformed, 2);
    }

    #[test]
    fn a_cut_is_healed_by_new_rules() {
        let (_folder, switch, guests) = network(&["a", "b", "c"]);
        switch.set_rules(Rules::partition(&[&["a"], &["b"]]));
        guests[0].send(&frame(BROADCAST, 2, b"1"));
        assert_eq!(guests[1].receive(), None);
        assert_eq!(guests[2].receive(), Some(frame(BROADCAST, 2, b"1")));
        assert_eq!(switch.counters()["b"].lost_by_rule, 1);
        switch.set_rules(Rules::default());
        guests[0].send(&frame(BROADCAST, 2, b"2"));
        assert_eq!(guests[1].receive(), Some(frame(BROADCAST, 2, b"2")));
    }

    #[test]
    fn a_lossy_network_loses_the_stated_share() {
        let (_folder, switch, guests) = network(&["a", "b"]);
        switch.set_rules(Rules::everywhere(Action::Lose(0.25)));
        let mut arrived = 0;
        for _ in 0..100 {
            for _ in 0..4 {
                guests[0].send(&frame(BROADCAST, 2, b"x"));
            }
            std::thread::sleep(Duration::from_millis(1));
            guests[1].socket.set_nonblocking(true).unwrap();
            while guests[1].receive().is_some() {
                arrived += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        while guests[1].receive().is_some() {
            arrived += 1;
        }
        assert!((250..350).contains(&arrived), "{arrived} of 400 arrived");
        assert_eq!(switch.counters()["b"].lost_by_rule, 400 - arrived);
    }

    #[test]
    fn delayed_frames_arrive_late_and_in_order() {
        let (_folder, switch, guests) = network(&["a", "b"]);
        let delay = Duration::from_millis(60);
        switch.set_rules(Rules::everywhere(Action::Delay(delay)));
        let start = Instant::now();
        for n in 0..5 {
            guests[0].send(&frame(BROADCAST, 2, &[n]));
        }
        for n in 0..5 {
            assert_eq!(guests[1].receive(), Some(frame(BROADCAST, 2, &[n])));
        }
        assert!(start.elapsed() >= delay);
    }

    #[test]
    fn a_slow_machine_gets_what_fits_the_queue_and_the_rest_is_counted() {
        let (_folder, switch, guests) = network(&["a", "b"]);
        let sent = 2 * MAX_QUEUE as u64;
        for _ in 0..sent {
            guests[0].send(&frame(BROADCAST, 2, b"x"));
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut arrived = 0;
        while guests[1].receive().is_some() {
            arrived += 1;
        }
        let lost = switch.counters()["b"].lost_full;
        assert!(lost > 0);
        assert_eq!(arrived + lost, sent);
    }

    #[test]
    fn a_machine_can_go_and_come_back() {
        let (folder, switch, mut guests) = network(&["a", "b"]);
        drop(guests.pop());
        guests[0].send(&frame(BROADCAST, 2, b"lost"));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(switch.counters()["b"].lost_absent, 1);
        std::fs::remove_file(folder.path().join("b.machine")).unwrap();
        let again = Guest::new(&switch, folder.path(), "b");
        guests[0].send(&frame(BROADCAST, 2, b"found"));
        assert_eq!(again.receive(), Some(frame(BROADCAST, 2, b"found")));
        drop(switch);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "sockets left behind"
        );
    }
}
