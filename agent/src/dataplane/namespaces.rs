//! Network namespaces as the data plane needs them: the number by which programs know one, and its sockets.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::error::DataPlaneError;
use super::node::network_namespace_cookie;
use super::sockdiag::SockDiag;

/// A network namespace. The descriptor of `sockets` belongs to it: nobody has to enter it again.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// `SO_NETNS_COOKIE`: no two namespaces of a boot have the same.
    pub(crate) cookie: u64,
    /// None where the kernel cannot list sockets.
    pub(crate) sockets: Option<SockDiag>,
}

impl Namespace {
    /// The calling thread's.
    pub(crate) fn own() -> Result<Self, DataPlaneError> {
        let sockets = SockDiag::open()
            .inspect_err(|error| tracing::warn!(%error, "sockets cannot be listed"))
            .ok();
        Ok(Self {
            cookie: network_namespace_cookie()?,
            sockets,
        })
    }

    /// The one that is mounted on `path`.
    pub(crate) async fn at(path: &Path) -> Result<Self, DataPlaneError> {
        let path = path.to_owned();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own: one that has changed its namespace is of no use to others.
        let started = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                // The receiver is gone only if the caller was cancelled: nobody asks any more.
                let _ = sender.send(Self::enter(&path));
            });
        let failed = |source| DataPlaneError::System {
            action: "look into a network namespace",
            source,
        };
        started.map_err(failed)?;
        receiver
            .await
            .unwrap_or_else(|_| Err(failed(std::io::Error::other("the thread ended early"))))
    }

    fn enter(path: &Path) -> Result<Self, DataPlaneError> {
        let namespace = File::open(path).map_err(DataPlaneError::file("open", path))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| DataPlaneError::file("enter", path)(errno.into()))?;
        Self::own()
    }
}
