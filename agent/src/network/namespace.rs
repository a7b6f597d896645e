//! Network namespaces that are kept by a bind mount.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::statfs;

use super::NetworkError;
use crate::userns;

/// `NSFS_MAGIC`
const MAGIC: i64 = 0x6e73_6673;

pub(super) fn is_mounted(path: &Path) -> bool {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type differs between architectures"
    )]
    statfs(path).is_ok_and(|at| at.filesystem_type().0 as i64 == MAGIC)
}

/// Runs `work` on a thread of its own, whose namespaces nobody else is in.
pub(super) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            // The receiver is gone only if the caller was cancelled: nobody asks any more.
            let _ = sender.send(work());
        })
        .map_err(NetworkError::system("start a thread"))?;
    receiver.await.map_err(|_| {
        NetworkError::system("work in a network namespace")(std::io::Error::other(
            "the thread ended early",
        ))
    })?
}

/// Makes a network namespace and mounts it on `path`; with `first_id` in a user namespace of its own. The calling thread
/// must be one of its own: if it cannot return to where it was, it must not be used for anything else.
pub(super) fn create(path: &Path, first_id: Option<u32>) -> Result<(), NetworkError> {
    File::create(path).map_err(NetworkError::file("create", path))?;
    if let Some(first_id) = first_id {
        return userns::create_with_network(first_id, path)
            .map_err(NetworkError::file("make a user namespace for", path));
    }
    returning(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetworkError::system("make a network namespace")(errno.into()))?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|errno| NetworkError::file("mount a network namespace on", path)(errno.into()))
    })
}

/// Runs `work`, which goes elsewhere, and takes the calling thread back to the network namespace that it is in.
fn returning<T>(work: impl FnOnce() -> Result<T, NetworkError>) -> Result<T, NetworkError> {
    let here = Path::new("/proc/thread-self/ns/net");
    let back = File::open(here).map_err(NetworkError::file("open", here))?;
    let result = work();
    setns(back.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|errno| NetworkError::system("return to the node's network")(errno.into()))?;
    result
}

/// Runs `work` in the namespace that is mounted on `path`, on the calling thread: see [`create`].
pub(super) fn visit<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    returning(|| {
        enter(path)?;
        work()
    })
}

fn enter(path: &Path) -> Result<(), NetworkError> {
    let namespace = File::open(path).map_err(NetworkError::file("open", path))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|errno| NetworkError::file("enter", path)(errno.into()))
}

/// Runs `work` in the namespace that is mounted on `path`.
pub(super) async fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let path = path.to_owned();
    on_own_thread(move || {
        enter(&path)?;
        work()
    })
    .await
}

/// Idempotent. Processes that are still in it keep the namespace alive, not its name.
pub(super) fn remove(path: &Path) -> Result<(), NetworkError> {
    while is_mounted(path) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(|errno| NetworkError::file("unmount", path)(errno.into()))?;
    }
    super::addresses::remove_file(path).map_err(NetworkError::file("remove", path))
}
