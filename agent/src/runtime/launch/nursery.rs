//! The thread that starts supervisors from inside their cgroup: whatever it starts is there from the first moment.
//!
//! To move a process is dear: in each hierarchy the kernel holds up every fork and exit of the machine meanwhile, and a host
//! with v1 controllers has ten of them, which matters when many pods begin together. Hierarchies of v1 can have one thread
//! of a process elsewhere than the rest; v2 cannot, and supervisors move there themselves. The thread leaves soon after
//! the last start, so that the cgroup can be removed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long it stays without being asked for something.
const IDLE: Duration = Duration::from_millis(100);

struct Job {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// By the cgroup's directories: its place, and what has a thread there.
static THREADS: Mutex<BTreeMap<Vec<PathBuf>, Sender<Job>>> = Mutex::new(BTreeMap::new());

fn threads() -> MutexGuard<'static, BTreeMap<Vec<PathBuf>, Sender<Job>>> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program in a cgroup, which is made if need be: by its directories in hierarchies of v1.
pub(super) async fn spawn(mut command: Command, directories: Vec<PathBuf>) -> io::Result<Child> {
    if directories.is_empty() {
        return command.spawn();
    }
    let (reply, answer) = oneshot::channel();
    let job = Job {
        command,
        runtime: Handle::current(),
        reply,
    };
    begin(job, directories)?;
    let ended = |_| io::Error::other("the thread that starts programs has ended");
    answer.await.map_err(ended)?
}

fn begin(job: Job, directories: Vec<PathBuf>) -> io::Result<()> {
    let mut threads = threads();
    let job = match threads.get(&directories) {
        Some(jobs) => match jobs.send(job) {
            Ok(()) => return Ok(()),
            // It panicked.
            Err(unsent) => unsent.0,
        },
        None => job,
    };
    let (jobs, inbox) = channel();
    let place = directories.clone();
    std::thread::Builder::new()
        .name("nursery".to_owned())
        .spawn(move || serve(&place, &inbox))?;
    // It is there until this is dropped.
    let _ = jobs.send(job);
    threads.insert(directories, jobs);
    Ok(())
}

fn serve(directories: &Vec<PathBuf>, inbox: &Receiver<Job>) {
    let mut entered = enter(directories);
    loop {
        let job = match inbox.recv_timeout(IDLE) {
            Ok(job) => job,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let mut threads = threads();
                // Whoever sends does so under the lock.
                let Ok(job) = inbox.try_recv() else {
                    threads.remove(directories);
                    return;
                };
                job
            }
        };
        if entered.is_err() {
            entered = enter(directories);
        }
        let Job {
            mut command,
            runtime,
            reply,
        } = job;
        let _runtime = runtime.enter();
        let spawned = match &entered {
            Ok(()) => command.spawn(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Whoever does not wait any more has its program ended with the answer.
        let _ = reply.send(spawned);
    }
}

/// Moves the calling thread.
fn enter(directories: &[PathBuf]) -> io::Result<()> {
    directories.iter().try_for_each(|directory| {
        let entered = enter_one(directory);
        entered.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("enter {}: {error}", directory.display()),
            )
        })
    })
}

fn enter_one(directory: &Path) -> io::Result<()> {
    // The directory may be removed by the end of another pod just before it is used.
    for _ in 0..10 {
        std::fs::create_dir_all(directory)?;
        match std::fs::write(directory.join("tasks"), "0") {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
