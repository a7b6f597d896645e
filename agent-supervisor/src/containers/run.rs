//! The steps of a container that need runc: beginning the next one, and what its end means.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{Container, Containers, Ended, Job, Reply, internal};
use crate::console::ConsoleSocket;
use crate::logfile::LogFile;
use crate::output::Output;
use crate::protocol::{Answer, ContainerState, Create, Failure};
use crate::runc::{self, Runc, Standard};
use crate::{cgroup, record};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    /// Create and start.
    Run,
    Start,
    Delete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Run => "run",
            Self::Start => "start",
            Self::Delete => "delete",
        }
    }
}

/// One runc under way.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pid: u32,
    pub(super) deadline: Instant,
    pub(super) timed_out: bool,
    allowed: Duration,
    verb: Verb,
    begun: SystemTime,
    reply: Option<Reply>,
    /// Why the container is deleted, when that is the answer.
    reason: Option<Failure>,
}

impl Run {
    fn new(pid: u32, verb: Verb, reply: Option<Reply>, allowed: Duration) -> Self {
        Self {
            pid,
            deadline: Instant::now() + allowed,
            allowed,
            timed_out: false,
            verb,
            begun: SystemTime::now(),
            reply,
            reason: None,
        }
    }

    /// Ends runc with everything in its process group.
    pub(super) fn kill(&mut self) {
        self.timed_out = true;
        cgroup::kill_group(self.pid);
    }

    pub(super) fn started_at(&self) -> Option<SystemTime> {
        matches!(self.verb, Verb::Run | Verb::Start).then_some(self.begun)
    }
}

/// What became of trying to begin a job.
enum Begun {
    Running(Run),
    Done(Answer),
    /// Cannot begin yet; the job stays first.
    Wait(Job),
    /// Nothing came of creating: the container is taken off the table.
    Void(Failure),
    /// So is one that is removed already.
    Removed(Option<Failure>),
}

impl Containers {
    /// Begins what can be begun for a container.
    pub(super) fn advance(&mut self, id: &str) {
        loop {
            let Some(container) = self.table.get_mut(id) else {
                return;
            };
            if container.run.is_some() {
                return;
            }
            let Some((reply, job)) = container.jobs.pop_front() else {
                return;
            };
            match container.begin(&self.runc, reply, job) {
                Begun::Running(run) => container.run = Some(run),
                Begun::Done(answer) => self.answer(reply, answer),
                Begun::Wait(job) => {
                    container.jobs.push_front((reply, job));
                    return;
                }
                Begun::Void(failure) => {
                    self.answer(reply, Answer::Failed(failure));
                    self.forget(id);
                }
                Begun::Removed(reason) => self.removed(id, reply, reason),
            }
        }
    }

    /// Takes a container off the table and answers those who still wanted something of it.
    fn forget(&mut self, id: &str) {
        let Some(container) = self.table.remove(id) else {
            return;
        };
        if let Some(output) = container.output {
            output.finish();
        }
        for command in container.commands {
            self.answer(Some(command.reply), Answer::Failed(Failure::NotFound));
        }
        for (reply, job) in container.jobs {
            let answer = match job {
                Job::Delete(None) => Answer::Done,
                Job::Delete(Some(failure)) => Answer::Failed(failure),
                Job::Create(_) | Job::Start => Answer::Failed(Failure::NotFound),
            };
            self.answer(reply, answer);
        }
        self.changed = true;
    }

    /// A container's runc has ended.
    pub(super) fn run_ended(&mut self, id: &str, ended: Ended) {
        let Some(container) = self.table.get_mut(id) else {
            return;
        };
        let Some(run) = container.run.take() else {
            return;
        };
        let failure = container.judge(&run, ended);
        match (run.verb, failure) {
            (Verb::Create, failure) => self.created(id, run.reply, None, failure),
            (Verb::Run, failure) => self.created(id, run.reply, Some(run.begun), failure),
            (Verb::Start, None) => {
                if let (Some(ContainerState::Created), Some(pid)) =
                    (&container.state, container.pid)
                {
                    let started_at = run.begun;
                    container.started_at = Some(started_at);
                    container.state = Some(ContainerState::Running { pid, started_at });
                    self.changed = true;
                }
                self.answer(run.reply, Answer::Done);
            }
            (Verb::Delete, None) => self.removed(id, run.reply, run.reason),
            (Verb::Delete, Some(failure)) if self.stopping || run.reason.is_some() => {
                // Sweeping, by cgroup, is what comes after this.
                eprintln!("delete {id}: {failure:?}");
                let answer = Answer::Failed(run.reason.unwrap_or(failure));
                self.answer(run.reply, answer);
                self.forget(id);
            }
            (_, Some(failure)) => self.answer(run.reply, Answer::Failed(failure)),
        }
    }

    /// Nothing is left of it but its bundle.
    fn removed(&mut self, id: &str, reply: Option<Reply>, reason: Option<Failure>) {
        if let Some(container) = self.table.get(id) {
            record::remove_bundle(&container.spec.bundle);
        }
        self.answer(reply, reason.map_or(Answer::Done, Answer::Failed));
        self.forget(id);
    }

    /// There is a container, begun when its program was started if it was.
    fn created(
        &mut self,
        id: &str,
        reply: Option<Reply>,
        started_at: Option<SystemTime>,
        failure: Option<Failure>,
    ) {
        let Some(container) = self.table.get_mut(id) else {
            return;
        };
        let pid = match failure {
            None => runc::read_pid(&container.spec.bundle).map_err(|e| internal("process id", &e)),
            Some(failure) => Err(failure),
        };
        let pid = pid.and_then(|pid| {
            let taken = container.take_terminal();
            taken.map_err(|error| internal("terminal", &error))?;
            Ok(pid)
        });
        match pid {
            Ok(pid) => {
                container.pid = Some(pid);
                container.started_at = started_at;
                let (state, answer) = match started_at {
                    Some(started_at) => {
                        (ContainerState::Running { pid, started_at }, Answer::Started)
                    }
                    None => (ContainerState::Created, Answer::Done),
                };
                container.state = Some(state);
                self.changed = true;
                self.answer(reply, answer);
                if let Some(ended) = self.unknown.remove(&pid) {
                    self.exited(id, ended, SystemTime::now());
                }
            }
            // A runc that was killed leaves its work half done: delete, then say what went wrong.
            Err(failure) => container
                .jobs
                .push_front((reply, Job::Delete(Some(failure)))),
        }
    }
}

impl Container {
    fn begin(&mut self, runc: &Runc, reply: Option<Reply>, job: Job) -> Begun {
        let bundle = self.spec.bundle.clone();
        let (verb, pid, reason) = match job {
            Job::Create(_) if self.state == Some(ContainerState::Created) => {
                return Begun::Done(Answer::Done);
            }
            Job::Create(_) if self.state.is_some() => return conflict("exists"),
            Job::Create(create) => {
                let verb = if create.start {
                    Verb::Run
                } else {
                    Verb::Create
                };
                match self.begin_create(runc, create) {
                    Ok(pid) => (verb, Ok(pid), None),
                    Err(error) => return Begun::Void(internal("create", &error)),
                }
            }
            Job::Start => match &self.state {
                Some(ContainerState::Created) => {
                    (Verb::Start, runc.start(&self.spec.id, &bundle), None)
                }
                Some(ContainerState::Running { .. }) => return Begun::Done(Answer::Done),
                Some(ContainerState::Exited { .. }) => return conflict("ended"),
                None => return Begun::Done(Answer::Failed(Failure::NotFound)),
            },
            Job::Delete(reason) => {
                cgroup::kill_all(&self.spec.cgroups);
                if let Some(pid) = self.pid {
                    cgroup::send_signal(pid, libc::SIGKILL);
                    return Begun::Wait(Job::Delete(reason));
                }
                let ended = matches!(self.state, Some(ContainerState::Exited { .. }));
                if ended && runc.remove(&self.spec.id, &self.spec.cgroups) {
                    return Begun::Removed(reason);
                }
                (Verb::Delete, runc.delete(&self.spec.id, &bundle), reason)
            }
        };
        match pid {
            Ok(pid) => {
                let mut run = Run::new(pid, verb, reply, runc.deadline);
                run.reason = reason;
                Begun::Running(run)
            }
            Err(error) => match reason {
                Some(reason) => Begun::Void(reason),
                None => Begun::Done(Answer::Failed(internal(verb.name(), &error))),
            },
        }
    }

    fn begin_create(&mut self, runc: &Runc, create: Create) -> io::Result<u32> {
        let log = LogFile::open(create.log.clone())?;
        let (stdout_reader, stdout) = pipe()?;
        let (stderr_reader, stderr) = pipe()?;
        give(&stdout, create.owner)?;
        give(&stderr, create.owner)?;
        let stdin = if create.stdin {
            let (reader, writer) = io::pipe()?;
            give(&reader, create.owner)?;
            self.stdin_writer = Some(writer.into());
            Stdio::from(reader)
        } else {
            Stdio::from(File::open("/dev/null")?)
        };
        if create.terminal {
            self.console = Some(ConsoleSocket::new(&create.bundle)?);
        }
        let console = self.console.as_ref().map(|it| it.path().to_owned());
        let standard = Standard {
            stdin,
            stdout,
            stderr,
            console,
        };
        let pid = runc.create(&create.id, &create.bundle, standard, create.start)?;
        self.output = Some(Output::new(stdout_reader, stderr_reader, log));
        self.spec = create;
        Ok(pid)
    }

    /// A terminal takes the place of the pipes, in which nothing but words of runc can be.
    fn take_terminal(&mut self) -> io::Result<()> {
        let Some(console) = self.console.take() else {
            return Ok(());
        };
        let terminal = console.receive()?;
        fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if let Some(output) = &mut self.output {
            output.use_terminal(terminal);
        }
        Ok(())
    }

    /// `None` when runc did what it should.
    fn judge(&mut self, run: &Run, ended: Ended) -> Option<Failure> {
        if ended == Ended::Code(0) {
            return None;
        }
        let message = if run.timed_out {
            format!("timed out after {:?}", run.allowed)
        } else {
            let making = matches!(run.verb, Verb::Create | Verb::Run);
            let output = match self.output.take_if(|_| making) {
                Some(output) => output.into_text(),
                None => Vec::new(),
            };
            let status = match ended {
                Ended::Code(code) => format!("exit code {code}"),
                Ended::Signal(signal) => format!("signal {signal}"),
            };
            runc::failure(&runc::log_file(&self.spec.bundle), &output, &status)
        };
        Some(Failure::Runc {
            verb: run.verb.name().to_owned(),
            message,
        })
    }
}

fn conflict(state: &str) -> Begun {
    Begun::Done(Answer::Failed(Failure::Conflict(state.to_owned())))
}

/// Programs may open their streams by name.
pub(super) fn give(stream: impl AsFd, owner: Option<u32>) -> io::Result<()> {
    match owner {
        Some(owner) => std::os::unix::fs::fchown(stream, Some(owner), Some(owner)),
        None => Ok(()),
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    fcntl(reader.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader.into(), writer.into()))
}
