//! The process that stands between the agent and one pod's containers: parent (subreaper) of their
//! processes, owner of their log pipes, keeper of their exit codes. Small and single-threaded, without
//! async runtime: there is one per pod.
//!
//! Runs as `waggle supervise --dir <pod run dir>`; the `cli` calls [`main`] before it starts anything else.

/// Entry point of `waggle supervise`; returns the process's exit code.
#[allow(unused_variables)]
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    todo!()
}
