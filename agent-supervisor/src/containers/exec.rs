//! Commands in running containers. `runc exec` ends as soon as a command runs; the command is then this
//! process's child, like the container's first process, and is reaped and answered for here.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::run::give;
use super::{Container, Containers, Ended, Reply, internal};
use crate::protocol::{Answer, ContainerState, Exec, Failure};
use crate::runc::{self, ExecFiles, ExecStreams};
use crate::{cgroup, config};

#[derive(Debug)]
enum Phase {
    /// runc is at work, under this process id.
    Begins(u32),
    /// The command itself is.
    Runs(u32),
}

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) reply: Reply,
    phase: Phase,
    deadline: Instant,
    /// By its deadline, or because its client has hung up.
    killed: bool,
    /// Who asked is told when it runs.
    tells: bool,
    files: ExecFiles,
}

impl Command {
    pub(super) fn begins(&self) -> bool {
        matches!(self.phase, Phase::Begins(_))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.killed).then_some(self.deadline)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        if !self.killed && self.deadline <= now {
            self.kill();
        }
    }

    /// runc makes each command the leader of a session, and itself leads a process group, too.
    fn kill(&mut self) {
        self.killed = true;
        let (Phase::Begins(leader) | Phase::Runs(leader)) = self.phase;
        cgroup::kill_group(leader);
    }

    fn ended(&self, ended: Ended) -> Answer {
        Answer::Ended {
            code: match ended {
                Ended::Code(code) => code,
                Ended::Signal(signal) => 128 + signal,
            },
            timed_out: self.killed,
        }
    }
}

impl Containers {
    pub(crate) fn exec(&mut self, reply: Reply, exec: &Exec) {
        if let Err(failure) = self.begin_command(reply, exec) {
            self.fail(reply, failure);
        }
    }

    fn begin_command(&mut self, reply: Reply, exec: &Exec) -> Result<(), Failure> {
        let container = self.table.get_mut(&exec.id).ok_or(Failure::NotFound)?;
        match container.state {
            Some(ContainerState::Running { .. }) => {}
            Some(ContainerState::Exited { .. }) => return Err(conflict("ended")),
            _ => return Err(conflict("not started")),
        }
        if exec.output.parent() != Some(&config::exec_dir(&self.dir)) || exec.args.is_empty() {
            return Err(Failure::Internal("invalid command or output".to_owned()));
        }
        let place = config::exec_dir(&self.dir);
        let others = exec.errors.iter().chain(&exec.input);
        if others.into_iter().any(|path| path.parent() != Some(&place)) {
            return Err(Failure::Internal("invalid input or errors".to_owned()));
        }
        let files = ExecFiles::beside(&exec.output);
        let owner = container.spec.owner;
        let mut streams = streams(exec, owner).map_err(|error| internal("streams", &error))?;
        if let (Some(size), Some(_)) = (exec.size, &exec.console) {
            let described =
                runc::write_process(&container.spec.bundle, &exec.args, size, &files.process);
            described.map_err(|error| internal("process", &error))?;
            streams.described = true;
        }
        let pid = self.runc.exec(&exec.id, &exec.args, &files, streams);
        let pid = pid.map_err(|error| internal("exec", &error))?;
        let now = Instant::now();
        container.commands.push(Command {
            reply,
            phase: Phase::Begins(pid),
            // A time too far away to be counted is none that will come.
            deadline: now.checked_add(exec.timeout).unwrap_or(now + FOREVER),
            killed: false,
            tells: exec.errors.is_some() || exec.console.is_some(),
            files,
        });
        Ok(())
    }

    /// `true` when the process was one of a command.
    pub(super) fn command_reaped(&mut self, pid: u32, ended: Ended) -> bool {
        for container in self.table.values_mut() {
            let Some((index, began)) = container.find_command(pid) else {
                continue;
            };
            let command = &mut container.commands[index];
            let answer = if began {
                Some(command.ended(ended))
            } else {
                command.begun(ended, &mut self.unknown)
            };
            match answer {
                Some(answer) => {
                    let command = container.commands.swap_remove(index);
                    self.answer(Some(command.reply), answer);
                }
                None if command.tells => {
                    let reply = command.reply;
                    self.answer(Some(reply), Answer::Begun);
                }
                None => {}
            }
            return true;
        }
        false
    }

    /// A client is gone: nobody waits for its commands.
    pub(crate) fn hang_up(&mut self, connection: u64) {
        let commands = self.table.values_mut().flat_map(|it| &mut it.commands);
        for command in commands.filter(|it| it.reply.connection == connection) {
            command.kill();
        }
    }
}

impl Container {
    /// Which command a process belongs to, and whether it is the command itself.
    fn find_command(&self, pid: u32) -> Option<(usize, bool)> {
        let mut commands = self.commands.iter().enumerate();
        commands.find_map(|(index, command)| match command.phase {
            Phase::Begins(runc) if runc == pid => Some((index, false)),
            Phase::Runs(own) if own == pid => Some((index, true)),
            _ => None,
        })
    }
}

impl Command {
    /// runc has ended; the answer, if there is one already.
    fn begun(
        &mut self,
        runc: Ended,
        unknown: &mut std::collections::HashMap<u32, Ended>,
    ) -> Option<Answer> {
        let pid = runc::parse_pid(&self.files.pid).ok();
        // A runc that was killed may have got so far; else its failure is the command's.
        let pid = pid.filter(|pid| match runc {
            Ended::Code(0) => true,
            _ => self.killed && (is_child(*pid) || unknown.contains_key(pid)),
        });
        let Some(pid) = pid else {
            if self.killed {
                return Some(self.ended(runc));
            }
            let message = runc::failure(&self.files.log, &[], &format!("{runc:?}"));
            return Some(Answer::Failed(Failure::Runc {
                verb: "exec".to_owned(),
                message,
            }));
        };
        self.phase = Phase::Runs(pid);
        if let Some(ended) = unknown.remove(&pid) {
            return Some(self.ended(ended));
        }
        if self.killed {
            self.kill();
        }
        None
    }
}

/// A process that has not been reaped, whose id thus cannot be another's.
fn is_child(pid: u32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), flags).is_ok()
}

const FOREVER: std::time::Duration = std::time::Duration::from_secs(1 << 30);

fn conflict(state: &str) -> Failure {
    Failure::Conflict(state.to_owned())
}

fn streams(exec: &Exec, owner: Option<u32>) -> io::Result<ExecStreams> {
    let output = open_output(&exec.output)?;
    give(&output, owner)?;
    // One pipe for both, so that the output has the order in which it was written.
    let errors = match &exec.errors {
        Some(path) => open_output(path)?,
        None => output.try_clone()?,
    };
    give(&errors, owner)?;
    let input = exec.input.as_deref().map(open_input).transpose()?;
    if let Some(input) = &input {
        give(input, owner)?;
    }
    Ok(ExecStreams {
        input,
        output,
        errors,
        console: exec.console.clone(),
        described: false,
    })
}

/// The client holds the other end already.
fn open_input(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// Fails instead of waiting when nobody reads; what is written blocks, as programs expect.
fn open_output(path: &Path) -> io::Result<File> {
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}
