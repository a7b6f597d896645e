//! Keeps the DNS server's sockets open while no agent runs: a small process that outlives the agent.
//!
//! Runs as `waggle keep-dns --dir <run dir>`, with the UDP socket as standard input, the listening TCP socket as standard
//! output and the memory of unanswered questions as standard error; the `cli` calls [`main`] before it starts anything else. Whoever connects to its socket in that
//! directory is the agent, and gets all three, and the connections that the agent before had open (`custody`). Questions that come while there is none wait in them, and are answered
//! by the next agent; without, they would be refused. It ends when an agent says so, or [`PATIENCE`] after the last one
//! is gone: then nobody answers any more, and clients had better be refused.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::custody::{self, Custody, END, Held, Said};
use super::questions::Questions;
use super::transport::DnsSockets;

const SOCKET: &str = "dns.sock";
/// Both sockets and the memory of questions.
const KEPT: usize = 3;
/// How long the sockets are kept without an agent.
const PATIENCE: Duration = Duration::from_secs(60);
/// A new keeper listens within this time.
const READY: Duration = Duration::from_secs(5);
/// What comes with the sockets; connections follow. A keeper that does not accept connections says something else.
const HERE: u8 = b'A';

/// An agent's connection to the keeper, which the keeper goes by: it ends with the agent.
#[derive(Debug)]
pub struct Keeper {
    connection: UnixStream,
}

impl Keeper {
    /// The sockets that an earlier agent left with its keeper, if there is one, and whether it has all that there is to
    /// keep: an older one has no memory of questions, or no connections.
    pub fn adopt(directory: &Path) -> io::Result<Option<(Self, DnsSockets, bool)>> {
        let connection = match UnixStream::connect(directory.join(SOCKET)) {
            Ok(connection) => connection,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        connection.set_read_timeout(Some(READY))?;
        let (here, found) =
            custody::receive(&connection, KEPT)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut found = found.into_iter();
        let (Some(udp), Some(tcp)) = (found.next(), found.next()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no sockets came",
            ));
        };
        let known = found.next().and_then(Questions::adopt);
        let is_whole = known.is_some() && here == HERE;
        let connections = if here == HERE {
            custody::adopt(&connection)?
        } else {
            Vec::new()
        };
        let sockets = DnsSockets {
            udp: udp.into(),
            tcp: tcp.into(),
            questions: known.map_or_else(Questions::new, Ok)?,
            connections: connections.into_iter().map(Into::into).collect(),
            custody: if is_whole {
                Some(Custody::new(&connection)?)
            } else {
                None
            },
        };
        Ok(Some((Self { connection }, sockets, is_whole)))
    }

    /// Starts a keeper for these sockets: `program` is a `waggle`.
    pub async fn start(
        program: &Path,
        directory: &Path,
        cgroups: &[PathBuf],
        sockets: &DnsSockets,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let own = sockets.try_clone()?;
        let mut command = tokio::process::Command::new(program);
        command.arg("keep-dns").arg("--dir").arg(directory);
        for cgroup in cgroups {
            command.arg("--cgroup").arg(cgroup);
        }
        let mut child = command
            .stdin(OwnedFd::from(own.udp))
            .stdout(OwnedFd::from(own.tcp))
            .stderr(OwnedFd::from(own.questions))
            .spawn()?;
        let began = Instant::now();
        loop {
            if let Some((keeper, ..)) = Self::adopt(directory)? {
                return Ok(keeper);
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            if began.elapsed() > READY {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// To give it connections.
    pub fn custody(&self) -> io::Result<Custody> {
        Custody::new(&self.connection)
    }

    /// Ends the keeper, and waits until it is gone.
    pub fn end(mut self) {
        let _ = self.connection.set_read_timeout(Some(READY));
        // Nothing comes any more but the end.
        if self.connection.write_all(&[END]).is_ok() {
            let _ = self.connection.read(&mut [0]);
        }
    }
}

/// Entry point of `waggle keep-dns`; returns the process's exit code.
pub fn main(arguments: &[std::ffi::OsString]) -> i32 {
    let mut directory = None;
    let mut cgroups = Vec::new();
    for pair in arguments.chunks(2) {
        match pair {
            [flag, value] if flag == "--dir" => directory = Some(PathBuf::from(value)),
            [flag, value] if flag == "--cgroup" => cgroups.push(PathBuf::from(value)),
            _ => return 2,
        }
    }
    let Some(directory) = directory else {
        return 2;
    };
    match run(&directory, &cgroups) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn run(directory: &Path, cgroups: &[PathBuf]) -> io::Result<()> {
    // Out of the agent's session, and of its cgroup, which a service manager may empty.
    nix::unistd::setsid()?;
    for cgroup in cgroups {
        // Where the kernel lets it not, it stays where it is.
        if std::fs::create_dir_all(cgroup).is_ok() {
            let _ = std::fs::write(cgroup.join("cgroup.procs"), "0");
        }
    }
    let sockets = [
        std::io::stdin().as_fd().try_clone_to_owned()?,
        std::io::stdout().as_fd().try_clone_to_owned()?,
        std::io::stderr().as_fd().try_clone_to_owned()?,
    ];
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for standard in 0..3 {
        // SAFETY: numbers of descriptors; the standard ones are not owned by any object here.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let connections = std::net::TcpListener::from(sockets[1].try_clone()?);
    connections.set_nonblocking(true)?;
    let directory = std::fs::canonicalize(directory)?;
    let listener = listen(&directory)?;
    let agents = keep(&listener, &sockets, PATIENCE)?;
    // Agents may wait for the end, which is when their connections are closed: nothing is left then.
    let _ = std::fs::remove_file(directory.join(SOCKET));
    drop(sockets);
    drop(agents);
    Ok(())
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    // Relative, since a socket's path must fit in 107 bytes.
    std::env::set_current_dir(directory)?;
    let _ = std::fs::remove_file(SOCKET);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(SOCKET)?;
    std::env::set_current_dir("/")?;
    Ok(listener)
}

/// Gives the sockets to every agent that comes; returns when it is time to end, with those that are still there.
fn keep(
    listener: &UnixListener,
    sockets: &[OwnedFd; KEPT],
    patience: Duration,
) -> io::Result<Vec<UnixStream>> {
    let mut agents: Vec<UnixStream> = Vec::new();
    let mut held = Held::default();
    let mut alone = Instant::now();
    loop {
        let left = patience.saturating_sub(alone.elapsed());
        if agents.is_empty() && left.is_zero() {
            return Ok(agents);
        }
        let timeout = if agents.is_empty() {
            // At least a millisecond, or it would turn without waiting.
            let milliseconds = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
            PollTimeout::from(milliseconds.max(1))
        } else {
            PollTimeout::NONE
        };
        let readable = wait(listener.as_fd(), &agents, timeout)?;
        let mut index = 0;
        let mut end = false;
        agents.retain_mut(|agent| {
            index += 1;
            if !readable[index] {
                return true;
            }
            // All of it: the next agent is to get what one that died had asked for.
            loop {
                let said = held.hear(agent, sockets[1].as_fd());
                end |= said == Said::End;
                if said != Said::Something {
                    return said != Said::Nothing;
                }
                if !has_more(agent) {
                    return true;
                }
            }
        });
        if end {
            return Ok(agents);
        }
        if readable[0] {
            let (agent, _) = listener.accept()?;
            let all = give(&agent, sockets).and_then(|()| held.give(&agent));
            if all.is_ok() {
                agents.push(agent);
            }
        }
        if !agents.is_empty() {
            alone = Instant::now();
        }
    }
}

/// Which of the listener and the agents have something to read.
fn wait(
    listener: BorrowedFd<'_>,
    agents: &[UnixStream],
    timeout: PollTimeout,
) -> io::Result<Vec<bool>> {
    let mut all = vec![PollFd::new(listener, PollFlags::POLLIN)];
    let descriptors = agents.iter().map(AsFd::as_fd);
    all.extend(descriptors.map(|agent| PollFd::new(agent, PollFlags::POLLIN)));
    match poll(&mut all, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(all.iter().map(|at| at.any() == Some(true)).collect()),
        Err(error) => Err(error.into()),
    }
}

fn has_more(agent: &UnixStream) -> bool {
    let mut one = [PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
    poll(&mut one, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn give(agent: &UnixStream, sockets: &[OwnedFd; KEPT]) -> io::Result<()> {
    let numbers = sockets.each_ref().map(|kept| kept.as_raw_fd());
    sendmsg::<()>(
        agent.as_raw_fd(),
        &[IoSlice::new(&[HERE])],
        &[ControlMessage::ScmRights(&numbers)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
