//! The sockets: UDP and TCP (`stream`), bounded, and stopped without losing an answer.
//!
//! hickory's own loop is not used: it drops queries under way when it stops, accepts connections and
//! queries without bound, and its sockets cannot be kept over a restart.

mod shares;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::shares::Shares;
use self::stream::Streams;
use super::answer::{Answerer, Step, failure};
use super::custody::Custody;
use super::questions::{DESKS, Desk, Held, Ledger, Questions};

/// UDP queries waiting for an upstream resolver, in all and of one client.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_EACH: usize = 1024;
/// Room for datagrams that nobody has read yet, some thousand queries.
const WAITING_BYTES: usize = 4 << 20;

/// Bound sockets; they can outlive a server and be handed to the next.
#[derive(Debug)]
pub struct DnsSockets {
    pub udp: std::net::UdpSocket,
    pub tcp: std::net::TcpListener,
    /// What was taken from the first and is not answered yet.
    pub questions: Questions,
    /// That the server before had open.
    pub connections: Vec<std::net::TcpStream>,
    /// Who has open connections too.
    pub custody: Option<Custody>,
}

impl DnsSockets {
    /// Binds both at one address, which need not be on an interface yet. Port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        // With port 0 the other protocol may have the port taken: then another one.
        let attempts = if address.port() == 0 { 16 } else { 1 };
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..attempts {
            let udp: std::net::UdpSocket = socket(address, SockType::Datagram)?.into();
            match socket(udp.local_addr()?, SockType::Stream) {
                Ok(tcp) => {
                    return Ok(Self {
                        udp,
                        tcp: tcp.into(),
                        questions: Questions::new()?,
                        connections: Vec::new(),
                        custody: None,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Other handles to the same sockets: queries wait in them as long as one handle is open.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            udp: self.udp.try_clone()?,
            tcp: self.tcp.try_clone()?,
            questions: self.questions.try_clone()?,
            connections: Vec::new(),
            custody: self.custody.clone(),
        })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Whether they belong to the network namespace that this process is in.
    pub(crate) fn are_of_this_network(&self) -> bool {
        let here = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|own| cookie(&own));
        matches!((here, cookie(&self.udp)), (Ok(here), Ok(theirs)) if here == theirs)
    }
}

fn socket(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(family, kind, flags, None)?;
    if address.is_ipv4() {
        nix::sys::socket::setsockopt(&socket, sockopt::IpFreebind, &true)?;
    } else {
        free_bind6(&socket)?;
    }
    if kind == SockType::Datagram {
        // Questions wait here while an agent is replaced. Where it may not, the default has to do.
        let _ = nix::sys::socket::setsockopt(&socket, sockopt::RcvBufForce, &WAITING_BYTES);
    }
    if kind == SockType::Stream {
        // Connections in TIME_WAIT do not keep the port; on UDP the option would let two servers share it.
        nix::sys::socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(1024)?)?;
    }
    Ok(socket)
}

/// Of a socket's network namespace (Linux 5.14).
fn cookie(socket: &std::net::UdpSocket) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or(8);
    // SAFETY: the descriptor is open, the buffer has the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}

fn free_bind6(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    // SAFETY: the descriptor is open, the value is an int that lives through the call, the length is its.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_FREEBIND,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Everything that runs for one server.
#[derive(Debug)]
pub(crate) struct Transport {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Transport {
    /// Must be called in a runtime.
    pub(crate) fn start(sockets: DnsSockets, answerer: &Arc<Answerer>) -> io::Result<Self> {
        let transport = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        sockets.udp.set_nonblocking(true)?;
        sockets.tcp.set_nonblocking(true)?;
        let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
        // SAFETY: the listener owns its descriptor, and nobody takes it out.
        let tcp = unsafe { AsyncFd::register_with_interest(sockets.tcp, Interest::READABLE) }?;
        let waiting = Shares::new(MAX_WAITING, MAX_WAITING_EACH);
        let ledger = sockets.questions.open()?;
        let worker = || Worker {
            answerer: answerer.clone(),
            stop: transport.stop.clone(),
            tasks: transport.tasks.clone(),
            ledger: ledger.clone(),
        };
        // What the agent before took to its end.
        let left = ledger.left();
        let desks = (0..DESKS)
            .map(|index| ledger.desk(index))
            .collect::<Vec<_>>();
        for ((query, from), held) in left {
            worker().datagram(&query, from, held, &udp, &waiting);
        }
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for desk in desks.into_iter().take(workers) {
            let serving = worker().serve_udp(udp.clone(), waiting.clone(), desk);
            transport.tasks.spawn(serving);
        }
        let streams = Streams::new(answerer, &transport.stop, &transport.tasks, sockets.custody);
        for connection in sockets.connections {
            streams.resume(connection);
        }
        transport.tasks.spawn(streams.serve(tcp));
        Ok(transport)
    }

    /// Takes nothing new, and waits (bounded) until what was asked is answered.
    pub(crate) async fn stop(self, patience: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Worker {
    answerer: Arc<Answerer>,
    stop: CancellationToken,
    tasks: TaskTracker,
    ledger: Ledger,
}

impl Worker {
    async fn serve_udp(self, socket: Arc<UdpSocket>, waiting: Shares, mut desk: Desk) {
        let descriptor = socket.as_raw_fd();
        loop {
            let received = tokio::select! {
                received = socket.async_io(Interest::READABLE, || desk.receive(descriptor)) => received,
                () = self.stop.cancelled() => break,
            };
            match received {
                Ok(()) => self.at_desk(&desk, &socket, &waiting),
                // An earlier reply could not be delivered; the socket is as good as before.
                Err(error) => {
                    tracing::debug!(%error, "receive");
                    tokio::task::yield_now().await;
                }
            }
        }
        // What had arrived before the stop was asked before it. Bounded: others go on asking.
        for _ in 0..MAX_WAITING {
            if socket
                .try_io(Interest::READABLE, || desk.receive(descriptor))
                .is_err()
            {
                return;
            }
            self.at_desk(&desk, &socket, &waiting);
        }
    }

    fn at_desk(&self, desk: &Desk, socket: &Arc<UdpSocket>, waiting: &Shares) {
        if let Some((query, from)) = desk.content() {
            self.datagram(query, from, None, socket, waiting);
        }
        desk.clear();
    }

    /// Answers, or has somebody wait for the answer; then `held`, or a place of its own, keeps the question.
    fn datagram(
        &self,
        query: &[u8],
        from: SocketAddr,
        held: Option<Held>,
        socket: &Arc<UdpSocket>,
        waiting: &Shares,
    ) {
        // Nobody can be answered at port 0.
        if from.port() == 0 {
            return;
        }
        let question = match read(&self.answerer, query, from, Protocol::Udp) {
            Ok(Step::Done(reply)) => return send(socket, &reply, from),
            Ok(Step::Forward(question)) => question,
            Err(reply) => return send(socket, &reply, from),
        };
        let Some(share) = waiting.take(from.ip()) else {
            self.answerer.metrics.overloaded.inc();
            return send(socket, &failure(query, ResponseCode::ServFail), from);
        };
        let (answerer, socket) = (self.answerer.clone(), socket.clone());
        let held = held.or_else(|| self.ledger.hold(query, from));
        self.tasks.spawn(async move {
            let reply = answerer.finish(*question).await;
            send(&socket, &reply, from);
            drop((share, held));
        });
    }
}

/// A query, or the reply (perhaps empty) to what is none.
pub(super) fn read(
    answerer: &Answerer,
    query: &[u8],
    from: SocketAddr,
    protocol: Protocol,
) -> Result<Step, Vec<u8>> {
    // Shorter than a header, or a reply: to be answered by nothing, or two servers could go on for ever.
    if query.len() < 12 || query[2] & 0x80 != 0 {
        answerer.metrics.malformed.inc();
        return Err(Vec::new());
    }
    match Request::from_bytes(query.to_vec(), from, protocol) {
        Ok(request) => Ok(answerer.start(request)),
        Err(error) => {
            tracing::debug!(%from, %error, "malformed query");
            answerer.metrics.malformed.inc();
            Err(failure(query, ResponseCode::FormErr))
        }
    }
}

/// A reply that cannot be sent at once is lost, as datagrams are: nobody waits for a full socket. The kernel is asked,
/// not the runtime, which knows nothing of a socket that it has just been given.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if reply.is_empty() {
        return;
    }
    let address = SockaddrStorage::from(to);
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    if let Err(error) = nix::sys::socket::sendto(socket.as_raw_fd(), reply, &address, flags) {
        tracing::debug!(%to, %error, "send");
    }
}
