//! The process that stands between the agent and one pod's containers: parent (subreaper) of their
//! processes, owner of their log pipes, keeper of their exit codes. Small and single-threaded, without
//! async runtime: there is one per pod.
//!
//! Runs as `waggle supervise --dir <pod run dir>`; the `cli` calls [`main`] before it starts anything else.
//!
//! Deliberately not here: anything about pods, images or networks; what is run is decided by the bundles
//! that the agent writes. This module uses nothing else of the crate but `userns`, so that it stays small; `runtime`
//! is its client.
//!
//! ```text
//!   daemon       detaches, takes the pod's namespaces, listens
//!   init         first process of a namespace of process ids that containers share
//!   footprint    staying small
//!   serve        the poll loop
//!   containers   the table of containers: requests, exits, one runc per container at a time
//!   runc         command lines, running and judging runc
//!   console      terminals
//!   attachment   who sees a container's output while it is written
//!   output       pipe to log records; logfile: records to files, with rotation
//!   record       exit records on disk
//!   protocol     frames and messages; connection: one client
//!   config       what the agent tells a new supervisor
//! ```

pub(crate) mod attachment;
pub(crate) mod cgroup;
pub(crate) mod config;
mod connection;
pub(crate) mod console;
mod containers;
mod daemon;
mod footprint;
mod init;
pub(crate) mod logfile;
mod output;
pub(crate) mod protocol;
pub(crate) mod record;
pub(crate) mod runc;
mod serve;

/// Entry point of `waggle supervise`; returns the process's exit code.
///
/// The calling process returns when the detached one is ready for its first client, or has failed.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    let dir = match args {
        [flag, dir] if flag == "--dir" => std::path::PathBuf::from(dir),
        _ => {
            eprintln!("usage: waggle supervise --dir <pod run dir>");
            return 2;
        }
    };
    match daemon::launch(&dir) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("supervise {}: {error}", dir.display());
            1
        }
    }
}

#[cfg(test)]
mod tests;
