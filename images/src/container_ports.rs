//! Ports of 127.0.0.1 that lead to machines on a segment: connections are carried over in user space, since nothing of
//! the host's own network is changed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

/// Connections at a time; one more is closed at once.
const MAX_CONNECTIONS: usize = 1024;
/// What is held of a connection in each direction, in bytes.
const BUFFER: usize = 16 << 10;
/// A thread of a connection needs no more, in bytes.
const STACK: usize = 64 << 10;
/// How long a machine may take to answer; one that is off never does.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Listens on a port of 127.0.0.1 for each target and carries connections over until `stop` is closed on its other side.
/// Gives the ports.
///
/// # Errors
/// No port is free, or no thread can be started.
pub(crate) fn forward(
    targets: &[SocketAddrV4],
    network: File,
    stop: io::PipeReader,
) -> io::Result<Vec<u16>> {
    let listeners = targets
        .iter()
        .map(|target| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok((listener, *target))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let ports = listeners
        .iter()
        .map(|(listener, _)| Ok(listener.local_addr()?.port()))
        .collect::<io::Result<_>>()?;
    let (entered, answer) = std::sync::mpsc::channel();
    thread::Builder::new().name("ports".into()).spawn(move || {
        // Of this thread and those that it starts, alone: the listeners stay what they are.
        let _ = entered.send(setns(network, CloneFlags::CLONE_NEWNET));
        accept(&listeners, &stop);
    })?;
    match answer.recv() {
        Ok(Ok(())) => Ok(ports),
        Ok(Err(errno)) => Err(errno.into()),
        Err(_) => Err(io::Error::other("the thread of the ports ended")),
    }
}

fn accept(listeners: &[(TcpListener, SocketAddrV4)], stop: &io::PipeReader) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds: Vec<PollFd> = listeners
            .iter()
            .map(|(listener, _)| PollFd::new(listener.as_fd(), PollFlags::POLLIN))
            .collect();
        fds.push(PollFd::new(stop.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if fds.last().is_some_and(|fd| fd.any().unwrap_or(true)) {
            return;
        }
        for ((listener, target), fd) in listeners.iter().zip(&fds) {
            if fd.any().unwrap_or(false)
                && let Ok((client, _)) = listener.accept()
                && open.fetch_add(1, Ordering::SeqCst) < MAX_CONNECTIONS
            {
                let (target, guard) = (*target, Guard(Arc::clone(&open)));
                // Without a thread the client's connection is closed, as when the machine is off.
                let _ = thread::Builder::new()
                    .stack_size(STACK)
                    .spawn(move || carry(client, target, guard));
            }
        }
    }
}

/// Counts a connection down when it ends.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn carry(client: TcpStream, target: SocketAddrV4, _guard: Guard) {
    let _ = carry_both_ways(&client, target);
}

fn carry_both_ways(client: &TcpStream, target: SocketAddrV4) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    let machine = TcpStream::connect_timeout(&target.into(), CONNECT_LIMIT)?;
    machine.set_nodelay(true)?;
    thread::scope(|scope| {
        let back = thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || pour(&machine, client))?;
        pour(client, &machine);
        let _ = back.join();
        Ok(())
    })
}

/// Copies until the end of `from`, which is passed on: either side may go on sending after that.
fn pour(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A reset is passed on as the end of both.
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        if to.write_all(&buffer[..read]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
