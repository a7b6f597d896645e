//! Running runc: command lines, its error messages, and what its end means.
//!
//! Nothing here waits: the supervisor's loop reaps, the agent's sweeping has its own deadline.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

use super::config::{self, Config};
use super::copied::Copied;
use super::removal;

/// Where and how runc is run for one pod.
#[derive(Debug, Clone)]
pub struct Runc {
    program: PathBuf,
    copy: Option<Arc<Copied>>,
    root: PathBuf,
    hidden: Option<PathBuf>,
    pub deadline: Duration,
}

/// The pipes and files a created container begins with.
pub struct Standard {
    pub stdin: Stdio,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Socket to which the terminal is sent, when there is to be one.
    pub console: Option<PathBuf>,
}

/// Files of one command, removed with it.
#[derive(Debug)]
pub struct ExecFiles {
    pub pid: PathBuf,
    pub log: PathBuf,
    /// The process as the OCI specification has it, when arguments do not say it all.
    pub process: PathBuf,
}

/// What a command reads and writes.
#[derive(Debug)]
pub struct ExecStreams {
    pub input: Option<File>,
    pub output: File,
    pub errors: File,
    /// Socket to which its terminal is sent, which then takes the place of the others.
    pub console: Option<PathBuf>,
    /// The process is in its file ([`write_process`]).
    pub described: bool,
}

impl ExecFiles {
    /// Beside the pipe for its output.
    pub fn beside(output: &Path) -> Self {
        Self {
            pid: output.with_extension("pid"),
            log: output.with_extension("log"),
            process: output.with_extension("process"),
        }
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        for path in [&self.pid, &self.log, &self.process] {
            // They may never have been written.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Runc {
    pub fn new(dir: &Path, config: &Config) -> Self {
        Self {
            program: config.runc.clone(),
            copy: None,
            root: config::runc_root(dir),
            hidden: config.hidden.clone(),
            deadline: config.runc_deadline,
        }
    }

    /// Runs the copy as long as the program is the one that it is of.
    pub(crate) fn with_copy(mut self, copy: Option<Copied>) -> Self {
        self.copy = copy.map(Arc::new);
        self
    }

    /// A run of runc, in a process group of its own so that it can be killed with what it has started.
    pub fn command(&self, log: Option<&Path>) -> Command {
        let copy = self.copy.as_ref().filter(|copy| copy.is_current());
        let mut command = match copy {
            Some(copy) => Command::new(copy.path()),
            None => Command::new(&self.program),
        };
        // It is short and waits for the kernel most of the time: more threads that look for work only take it from others.
        command.arg0(&self.program).env("GOMAXPROCS", "1");
        command.arg("--root").arg(&self.root);
        if let Some(log) = log {
            // Errors of earlier runs are not this one's.
            let _ = std::fs::remove_file(log);
            command.arg("--log").arg(log);
            command.args(["--log-format", "json"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        if let Some(hidden) = self.hidden.clone() {
            let parent = hidden.parent().unwrap_or(Path::new("/")).to_owned();
            // Paths as the kernel wants them are made here: nothing may be allocated after the fork.
            if let (Ok(hidden), Ok(parent)) = (c_text(&hidden), c_text(&parent)) {
                // SAFETY: the closure calls nothing but the kernel.
                unsafe { command.pre_exec(move || hide(&hidden, &parent)) };
            }
        }
        command
    }

    fn spawn(&self, mut command: Command) -> io::Result<u32> {
        let failed = |error: io::Error| {
            let text = format!("{}: {error}", self.program.display());
            io::Error::new(error.kind(), text)
        };
        Ok(command.spawn().map_err(failed)?.id())
    }

    /// With `start`, one run of it does what creating and starting do, and takes not much longer than either.
    pub fn create(
        &self,
        id: &str,
        bundle: &Path,
        standard: Standard,
        start: bool,
    ) -> io::Result<u32> {
        let mut command = self.command(Some(&log_file(bundle)));
        let verb: &[&str] = if start {
            &["run", "--detach"]
        } else {
            &["create"]
        };
        command
            .args(verb)
            .arg("--bundle")
            .arg(bundle)
            .arg("--pid-file")
            .arg(pid_file(bundle));
        if let Some(console) = standard.console {
            command.arg("--console-socket").arg(console);
        }
        command
            .arg(id)
            .stdin(standard.stdin)
            .stdout(standard.stdout)
            .stderr(standard.stderr);
        self.spawn(command)
    }

    /// Ends when the command runs, which is then this process's child; its id is in the file.
    pub fn exec(
        &self,
        id: &str,
        args: &[String],
        files: &ExecFiles,
        streams: ExecStreams,
    ) -> io::Result<u32> {
        let mut command = self.command(Some(&files.log));
        command
            .args(["exec", "--detach", "--pid-file"])
            .arg(&files.pid);
        match &streams.console {
            // The command's streams are the terminal; what runc says goes to its log.
            Some(console) => {
                match streams.described {
                    true => command.arg("--process").arg(&files.process),
                    false => command.args(["--tty", "--env", TERM]),
                };
                command.arg("--console-socket").arg(console);
            }
            None => {
                let input = streams.input.map_or_else(Stdio::null, Stdio::from);
                command.stdin(input);
                command.stdout(streams.output).stderr(streams.errors);
            }
        }
        command.arg(id);
        if !streams.described {
            command.args(args);
        }
        self.spawn(command)
    }

    pub fn start(&self, id: &str, bundle: &Path) -> io::Result<u32> {
        let mut command = self.command(Some(&log_file(bundle)));
        command.args(["start", id]);
        self.spawn(command)
    }

    /// What [`Self::delete`] does, of a container that has ended; false where it has to be run for that.
    pub(crate) fn remove(&self, id: &str, cgroups: &[PathBuf]) -> bool {
        removal::remove(&self.root, id, cgroups)
    }

    pub fn delete(&self, id: &str, bundle: &Path) -> io::Result<u32> {
        let mut command = self.command(Some(&log_file(bundle)));
        command.args(["delete", "--force", id]);
        self.spawn(command)
    }
}

/// What programs take a terminal for.
const TERM: &str = "TERM=xterm";

/// Describes a command with a terminal that has a size (columns and rows) before the command begins, which arguments cannot
/// say: otherwise as the container's first process.
pub(crate) fn write_process(
    bundle: &Path,
    args: &[String],
    size: (u16, u16),
    path: &Path,
) -> io::Result<()> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json"))?)?;
    let process = described(config["process"].take(), args, size)?;
    let mut options = File::options();
    // A process may have passwords in its variables.
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(serde_json::to_writer(file, &process)?)
}

fn described(mut process: Value, args: &[String], size: (u16, u16)) -> io::Result<Value> {
    let fields = process.as_object_mut();
    let fields = fields.ok_or_else(|| io::Error::other("the container has no process"))?;
    fields.insert("args".to_owned(), args.into());
    fields.insert("terminal".to_owned(), true.into());
    let (columns, rows) = size;
    let size = json!({"width": columns, "height": rows});
    fields.insert("consoleSize".to_owned(), size);
    let variables = fields.entry("env").or_insert_with(|| json!([]));
    if let Some(variables) = variables.as_array_mut() {
        variables.push(TERM.into());
    }
    Ok(process)
}

/// Takes a mount away for this process and those that it starts. Mounts elsewhere are seen as before, on both sides.
fn hide(hidden: &CStr, parent: &CStr) -> io::Result<()> {
    // Else it would be taken away for all.
    let private = MsFlags::MS_PRIVATE;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    for at in [parent, hidden] {
        nix::mount::mount(None::<&CStr>, at, None::<&CStr>, private, None::<&CStr>)?;
    }
    nix::mount::umount2(hidden, MntFlags::MNT_DETACH)?;
    Ok(())
}

fn c_text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

pub fn log_file(bundle: &Path) -> PathBuf {
    bundle.join("runc.log")
}

/// The process id of a container's first process, as runc wrote it.
pub fn read_pid(bundle: &Path) -> io::Result<u32> {
    parse_pid(&pid_file(bundle))
}

pub fn parse_pid(file: &Path) -> io::Result<u32> {
    let text = std::fs::read_to_string(file)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("process id {text:?}")))
}

fn pid_file(bundle: &Path) -> PathBuf {
    bundle.join("init.pid")
}

/// The last error in runc's log, which is the reason of its failure.
pub fn last_error(log: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    log.split(|byte| *byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"))
        .map(|line| line.msg)
}

/// Why a run of runc failed: its log, else what it wrote to its output, else how it ended.
pub fn failure(log: &Path, output: &[u8], status: &str) -> String {
    let logged = std::fs::read(log).ok().and_then(|log| last_error(&log));
    logged.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(output);
        match text.trim() {
            "" => format!("ended with {status}"),
            text => text.to_owned(),
        }
    })
}
