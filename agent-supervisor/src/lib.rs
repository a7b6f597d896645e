//! The process that stands between the agent and one pod's containers: parent (subreaper) of their
//! processes, owner of their log pipes, keeper of their exit codes. Small and single-threaded, without
//! async runtime: there is one per pod.
//!
//! It is a program of its own, `waggle-supervisor --dir <pod run dir>`, linked statically: what a process has in memory
//! of a file counts for each process, and of the whole of `waggle` that is megabytes. The agent embeds it.
//!
//! Deliberately not here: anything about pods, images or networks; what is run is decided by the bundles
//! that the agent writes. The agent's `runtime` is its client, and uses of this library what both must agree on.
//!
//! ```text
//!   daemon       detaches, takes the pod's namespaces, listens
//!   init         first process of a namespace of process ids that containers share
//!   serve        the poll loop
//!   containers   the table of containers: requests, exits, one runc per container at a time
//!   runc         command lines, running and judging runc; copied: a copy of it that is started faster
//!   removal      what runc has left of a container, without another run of it
//!   console      terminals
//!   attachment   who sees a container's output while it is written
//!   output       pipe to log records; logfile: records to files, with rotation
//!   record       exit records on disk
//!   protocol     frames and messages; connection: one client
//!   config       what the agent tells a new supervisor
//!   userns       whose a namespace is
//! ```

pub mod attachment;
pub mod cgroup;
pub mod config;
mod connection;
pub mod console;
mod containers;
pub mod copied;
mod daemon;
mod init;
pub mod logfile;
mod output;
pub mod protocol;
pub mod record;
mod removal;
pub mod runc;
mod serve;
pub mod userns;

/// Entry point of `waggle-supervisor`, with its arguments; returns the process's exit code.
///
/// The calling process returns when the detached one is ready for its first client, or has failed.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    let (dir, copied) = match args {
        [flag, dir] if flag == "--dir" => (dir, None),
        [flag, dir, copied, text] if flag == "--dir" && copied == copied::FLAG => (dir, Some(text)),
        _ => {
            let copied = copied::FLAG;
            eprintln!("usage: waggle-supervisor --dir <pod run dir> [{copied} <file>]");
            return 2;
        }
    };
    let dir = std::path::PathBuf::from(dir);
    match daemon::launch(&dir, copied.map(std::ffi::OsString::as_os_str)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("supervise {}: {error}", dir.display());
            1
        }
    }
}

#[cfg(test)]
mod tests;
