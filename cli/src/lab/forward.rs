//! The API server listens in a namespace; this process, which is not in it, accepts on the machine's loopback
//! and connects there. The listening socket is its standard input.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(super) fn run(netns: &Path, target: SocketAddr) -> anyhow::Result<()> {
    let inside = super::netns::open(netns)?;
    let outside = File::open("/proc/thread-self/ns/net").context("open this network namespace")?;
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
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let socket = socket_in(&inside, &outside, target);
            tokio::spawn(async move {
                if let Err(error) = carry(client, socket, target).await {
                    tracing::debug!(%error, %target, "connection ended");
                }
            });
        }
    })
}

/// A socket belongs to the namespace in which it was made, whoever uses it.
fn socket_in(inside: &File, outside: &File, target: SocketAddr) -> io::Result<TcpSocket> {
    setns(inside.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    setns(outside.as_fd(), CloneFlags::CLONE_NEWNET)?;
    socket
}

async fn carry(
    mut client: TcpStream,
    socket: io::Result<TcpSocket>,
    target: SocketAddr,
) -> io::Result<()> {
    let mut server = socket?.connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
