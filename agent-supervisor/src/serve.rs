//! The poll loop: clients, signals, log pipes, deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::connection::{Closed, Connection};
use super::containers::{Containers, Ended, Reply};
use super::daemon::Prepared;
use super::protocol::{Answer, Attach, Call, Failure, Message, Request, VERSION};
use super::runc::Runc;

/// The agent, one that takes over from it, somebody who looks, and one for each command with streams.
const MAX_CONNECTIONS: usize = 256;

struct Server {
    containers: Containers,
    connections: Vec<Connection>,
    next_token: u64,
    counter: u64,
    buffer: Vec<u8>,
    /// First process of the namespace that the containers share.
    init: Option<u32>,
}

/// Serves until it is told to stop.
pub(crate) fn serve(dir: &Path, runc: Runc, prepared: &Prepared) {
    let Prepared {
        listener,
        signals,
        init,
    } = prepared;
    let mut server = Server {
        containers: Containers::new(dir, runc),
        connections: Vec::new(),
        next_token: 0,
        counter: 0,
        buffer: vec![0; 16 << 10],
        init: *init,
    };
    let mut again = false;
    while !server.containers.finished() {
        let timeout = match server.containers.next_deadline() {
            _ if again => PollTimeout::ZERO,
            deadline => timeout(deadline),
        };
        let ready = match server.wait(listener, signals, timeout) {
            Ok(ready) => ready,
            Err(error) => {
                eprintln!("poll: {error}");
                continue;
            }
        };
        again = server.containers.copy_output(&mut server.buffer);
        if ready.signals {
            server.signals(signals);
        }
        server.containers.expire(Instant::now());
        server.clients(&ready.connections);
        if ready.listener {
            server.accept(listener);
        }
        // After the signals: whose container has ended is told now, not when something else happens.
        server.containers.serve_attachments();
        server.deliver();
    }
    for connection in &mut server.connections {
        connection.finish();
    }
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that the deadline is past when the time is.
    let millis = left.as_millis().saturating_add(1);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

struct Ready {
    signals: bool,
    listener: bool,
    /// In the order of the connections.
    connections: Vec<PollFlags>,
}

impl Server {
    fn wait(
        &self,
        listener: &UnixListener,
        signals: &SignalFd,
        timeout: PollTimeout,
    ) -> io::Result<Ready> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = vec![input(signals.as_fd()), input(listener.as_fd())];
        for connection in &self.connections {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, connection.has_pending());
            fds.push(PollFd::new(connection.fd(), flags));
        }
        fds.extend(
            self.containers
                .pipes()
                .map(|pipe: BorrowedFd<'_>| input(pipe)),
        );
        fds.extend(self.containers.attachments().map(|(fd, behind)| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, behind);
            PollFd::new(fd, flags)
        }));
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        Ok(Ready {
            signals: !flags(&fds[0]).is_empty(),
            listener: !flags(&fds[1]).is_empty(),
            connections: fds[2..2 + self.connections.len()]
                .iter()
                .map(flags)
                .collect(),
        })
    }

    fn signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            if info.ssi_signo == libc::SIGTERM as u32 {
                self.containers.stop(None);
            }
        }
        while let Some((pid, ended)) = reap() {
            self.containers.reaped(pid, ended, SystemTime::now());
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            let peer = getsockopt(&stream, PeerCredentials).map(|peer| peer.uid());
            let own = nix::unistd::geteuid().as_raw();
            if peer != Ok(0) && peer != Ok(own) || self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            self.next_token += 1;
            match Connection::new(self.next_token, stream) {
                Ok(connection) => self.connections.push(connection),
                Err(error) => eprintln!("client: {error}"),
            }
        }
    }

    fn clients(&mut self, ready: &[PollFlags]) {
        for (index, flags) in ready.iter().enumerate() {
            let connection = &mut self.connections[index];
            if flags.contains(PollFlags::POLLOUT) {
                connection.flush();
            }
            if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                for request in connection.read(&mut self.buffer) {
                    self.request(index, request);
                }
            }
        }
    }

    fn request(&mut self, index: usize, request: Request) {
        let connection = &mut self.connections[index];
        let reply = Reply {
            connection: connection.token,
            request: request.id,
        };
        let answer = match request.call {
            _ if request.version != VERSION => {
                Answer::Failed(Failure::Unsupported { version: VERSION })
            }
            Call::Hello => {
                connection.subscribed = true;
                Answer::Hello {
                    version: VERSION,
                    pid: std::process::id(),
                    init: self.init,
                }
            }
            Call::States => Answer::States(self.containers.states()),
            Call::Create(create) => return self.containers.create(reply, create),
            Call::Start { id } => return self.containers.start(reply, &id),
            Call::Kill { id, signal } => self.containers.kill(&id, signal),
            Call::Delete { id } => return self.containers.delete(reply, &id),
            Call::Exec(exec) => return self.containers.exec(reply, &exec),
            Call::Attach(attach) => return self.attach(index, request.id, &attach),
            Call::Stop => return self.containers.stop(Some(reply)),
        };
        let id = request.id;
        connection.send(&Message::Answer { id, answer });
    }

    /// The connection is the container's from now on.
    fn attach(&mut self, index: usize, id: u64, attach: &Attach) {
        let connection = &mut self.connections[index];
        let (answer, wanted) = match self.containers.attach(attach) {
            Ok((answer, wanted)) => (answer, Some(wanted)),
            Err(failure) => (Answer::Failed(failure), None),
        };
        connection.send(&Message::Answer { id, answer });
        let Some(wanted) = wanted else { return };
        match connection.give_away() {
            Ok(stream) => self.containers.attached(stream, wanted),
            Err(error) => eprintln!("attach: {error}"),
        }
    }

    /// Hands out answers and news, and forgets clients that are gone.
    fn deliver(&mut self) {
        for (reply, answer) in self.containers.take_answers() {
            let mut connections = self.connections.iter_mut();
            if let Some(client) = connections.find(|client| client.token == reply.connection) {
                let id = reply.request;
                client.send(&Message::Answer { id, answer });
            }
        }
        if self.containers.take_changed() {
            self.counter += 1;
            let counter = self.counter;
            for client in self
                .connections
                .iter_mut()
                .filter(|client| client.subscribed)
            {
                client.send(&Message::Changed { counter });
            }
        }
        let containers = &mut self.containers;
        self.connections.retain(|client| {
            let Some(reason) = &client.closed else {
                return true;
            };
            if !matches!(reason, Closed::End | Closed::Attached) {
                eprintln!("client dropped: {reason}");
            }
            containers.hang_up(client.token);
            false
        });
    }
}

/// A child that has ended, if there is one.
fn reap() -> Option<(u32, Ended)> {
    let mut status = 0;
    // SAFETY: waitpid writes one integer to the address given, which is valid.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(libc::WEXITSTATUS(status))
    };
    Some((pid, ended))
}
