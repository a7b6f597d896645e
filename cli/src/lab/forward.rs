//! The API servers listen in namespaces; this process, which is in none of them, accepts on the machine's loopback
//! and connects there, to the controller that answered last, and to the next one when that one does not. The listening
//! socket is its standard input.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A controller that is killed refuses at once; one whose machine is gone does not.
const PATIENCE: Duration = Duration::from_secs(2);

struct Ways {
    inside: File,
    outside: File,
    targets: Vec<SocketAddr>,
    /// The one that answered last.
    good: AtomicUsize,
}

pub(super) fn run(netns: &Path, targets: &[SocketAddr]) -> anyhow::Result<()> {
    let ways = Arc::new(Ways {
        inside: super::netns::open(netns)?,
        outside: File::open("/proc/thread-self/ns/net").context("open this network namespace")?,
        targets: targets.to_vec(),
        good: AtomicUsize::new(0),
    });
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    // One thread: it changes its namespace for as long as it takes to make a socket.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (client, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors: they come back when connections end.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let ways = Arc::clone(&ways);
            tokio::spawn(async move {
                if let Err(error) = ways.carry(client).await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
    })
}

impl Ways {
    /// A socket belongs to the namespace in which it was made, whoever uses it.
    fn socket(&self, target: SocketAddr) -> io::Result<TcpSocket> {
        setns(self.inside.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = match target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        setns(self.outside.as_fd(), CloneFlags::CLONE_NEWNET)?;
        socket
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let first = self.good.load(Ordering::Relaxed);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for turn in 0..self.targets.len() {
            let place = (first + turn) % self.targets.len();
            let connect = self
                .socket(self.targets[place])?
                .connect(self.targets[place]);
            match tokio::time::timeout(PATIENCE, connect).await {
                Ok(Ok(stream)) => {
                    self.good.store(place, Ordering::Relaxed);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn carry(&self, mut client: TcpStream) -> io::Result<()> {
        let mut server = self.connect().await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }
}
