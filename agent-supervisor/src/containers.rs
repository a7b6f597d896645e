//! The table of a pod's containers: what is asked of each, the one run of runc that each may have under way,
//! and how each ended.
//!
//! Requests for one container wait for each other; those for different containers do not. Killing does not
//! wait and does not need runc: this process is the parent, so a process id stays good until it is reaped.

mod attach;
mod exec;
mod run;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::attachment::Attachment;
use super::config;
use super::console::ConsoleSocket;
use super::logfile::Stream;
use super::output::Output;
use super::protocol::{Answer, ContainerState, Create, Failure};
use super::runc::Runc;
use super::{cgroup, record};
use exec::Command;
use run::Run;

/// More than the largest pipe holds.
const LAST_TURNS: u32 = 64;

/// Whom an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) connection: u64,
    pub(crate) request: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

#[derive(Debug)]
enum Job {
    Create(Create),
    Start,
    /// Kills what is left, then removes the container; the answer, when it is not just that it is done.
    Delete(Option<Failure>),
}

#[derive(Debug)]
struct Container {
    spec: Create,
    /// `None` while it is being created.
    state: Option<ContainerState>,
    pid: Option<u32>,
    started_at: Option<SystemTime>,
    output: Option<Output>,
    /// The other end of a standard input that is kept open.
    stdin_writer: Option<OwnedFd>,
    /// While it is being created with a terminal.
    console: Option<ConsoleSocket>,
    jobs: VecDeque<(Option<Reply>, Job)>,
    run: Option<Run>,
    commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) struct Containers {
    dir: PathBuf,
    runc: Runc,
    table: BTreeMap<String, Container>,
    /// Ends of processes that nobody knew yet, kept while a container or a command is begun: it may be
    /// reaped before its id has been read.
    unknown: HashMap<u32, Ended>,
    attachments: Vec<Attachment>,
    answers: Vec<(Reply, Answer)>,
    changed: bool,
    stopping: bool,
    stop_replies: Vec<Reply>,
}

impl Containers {
    pub(crate) fn new(dir: &Path, runc: Runc) -> Self {
        Self {
            dir: dir.to_owned(),
            runc,
            table: BTreeMap::new(),
            unknown: HashMap::new(),
            attachments: Vec::new(),
            answers: Vec::new(),
            changed: false,
            stopping: false,
            stop_replies: Vec::new(),
        }
    }

    pub(crate) fn states(&self) -> BTreeMap<String, ContainerState> {
        let known = self.table.iter();
        known
            .filter_map(|(id, container)| Some((id.clone(), container.state.clone()?)))
            .collect()
    }

    pub(crate) fn create(&mut self, reply: Reply, create: Create) {
        if self.stopping {
            return self.fail(reply, Failure::Stopping);
        }
        let id = create.id.clone();
        if !config::valid_id(&id) || create.bundle != config::bundle(&self.dir, &id) {
            let message = format!("invalid container id {id:?} or bundle");
            return self.fail(reply, Failure::Internal(message));
        }
        let container = self.table.entry(id.clone()).or_insert_with(|| Container {
            spec: create.clone(),
            state: None,
            pid: None,
            started_at: None,
            output: None,
            stdin_writer: None,
            console: None,
            jobs: VecDeque::new(),
            run: None,
            commands: Vec::new(),
        });
        container.jobs.push_back((Some(reply), Job::Create(create)));
        self.advance(&id);
    }

    pub(crate) fn start(&mut self, reply: Reply, id: &str) {
        let Some(container) = self.table.get_mut(id) else {
            return self.fail(reply, Failure::NotFound);
        };
        container.jobs.push_back((Some(reply), Job::Start));
        self.advance(id);
    }

    pub(crate) fn delete(&mut self, reply: Reply, id: &str) {
        let Some(container) = self.table.get_mut(id) else {
            return self.answers.push((reply, Answer::Done));
        };
        container.jobs.push_back((Some(reply), Job::Delete(None)));
        self.advance(id);
    }

    pub(crate) fn kill(&mut self, id: &str, signal: i32) -> Answer {
        let Some(container) = self.table.get(id) else {
            return Answer::Failed(Failure::NotFound);
        };
        match (&container.state, container.pid) {
            (Some(ContainerState::Exited { .. }), _) => Answer::Done,
            (Some(_), Some(pid)) if (1..=64).contains(&signal) => {
                if signal == libc::SIGKILL {
                    cgroup::kill_all(&container.spec.cgroups);
                }
                cgroup::send_signal(pid, signal);
                Answer::Done
            }
            (Some(_), _) => Answer::Failed(Failure::Internal(format!("signal {signal}"))),
            (None, _) => Answer::Failed(Failure::Conflict("being created".to_owned())),
        }
    }

    /// Deletes everything; the answer comes when that is done.
    pub(crate) fn stop(&mut self, reply: Option<Reply>) {
        self.stopping = true;
        self.stop_replies.extend(reply);
        let ids: Vec<String> = self.table.keys().cloned().collect();
        for id in ids {
            if let Some(container) = self.table.get_mut(&id) {
                container.jobs.push_back((None, Job::Delete(None)));
            }
            self.advance(&id);
        }
    }

    /// Everything is deleted after a stop: the supervisor may end when the answers are delivered.
    pub(crate) fn finished(&self) -> bool {
        self.stopping
            && self.table.is_empty()
            && self.answers.is_empty()
            && self.stop_replies.is_empty()
    }

    pub(crate) fn take_answers(&mut self) -> Vec<(Reply, Answer)> {
        if self.stopping && self.table.is_empty() {
            let replies = std::mem::take(&mut self.stop_replies);
            self.answers
                .extend(replies.into_iter().map(|reply| (reply, Answer::Done)));
        }
        std::mem::take(&mut self.answers)
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // What is in the pipes of a container that is being created are words of runc.
        let created = self.table.values().filter(|it| it.state.is_some());
        created
            .filter(|it| !is_held_up(&self.attachments, &it.spec.id))
            .flat_map(|it| it.output.iter().flat_map(Output::pipes))
    }

    /// Moves output to the logs; `true` when there may be more.
    pub(crate) fn copy_output(&mut self, buffer: &mut [u8]) -> bool {
        let mut more = false;
        for (id, container) in &mut self.table {
            if container.state.is_some()
                && let Some(output) = &mut container.output
            {
                more |= output.copy(buffer, &mut |stream, bytes| {
                    show(&mut self.attachments, id, stream, bytes);
                    !is_held_up(&self.attachments, id)
                });
            }
        }
        more
    }

    /// A child has ended: a runc, a container, or an orphan that nobody asks for.
    pub(crate) fn reaped(&mut self, pid: u32, ended: Ended, now: SystemTime) {
        let of_run = |it: &Container| it.run.as_ref().is_some_and(|run| run.pid == pid);
        if let Some(id) = self.find(of_run) {
            self.run_ended(&id, ended);
            self.advance(&id);
        } else if let Some(id) = self.find(|it| it.pid == Some(pid)) {
            self.exited(&id, ended, now);
            self.advance(&id);
        } else if !self.command_reaped(pid, ended) && self.table.values().any(Container::begins) {
            self.unknown.insert(pid, ended);
        }
        if !self.table.values().any(Container::begins) {
            self.unknown.clear();
        }
    }

    fn find(&self, wanted: impl Fn(&Container) -> bool) -> Option<String> {
        let found = self.table.iter().find(|(_, it)| wanted(it));
        found.map(|(id, _)| id.clone())
    }

    /// The first process has ended, and with it all others of its process id namespace.
    fn exited(&mut self, id: &str, ended: Ended, finished_at: SystemTime) {
        let Some(container) = self.table.get_mut(id) else {
            return;
        };
        if let Some(output) = &mut container.output {
            // What the pipes still hold; the bound is for writers in other containers, to which a pipe
            // can have been given.
            let mut buffer = [0; 4096];
            let mut turns = 0;
            let mut all = |stream, bytes: &[u8]| {
                show(&mut self.attachments, id, stream, bytes);
                true
            };
            while output.copy(&mut buffer, &mut all) && turns < LAST_TURNS {
                turns += 1;
            }
        }
        let attachments = self.attachments.iter_mut();
        for attachment in attachments.filter(|it| it.container == id) {
            attachment.finish();
        }
        if let Some(started_at) = container.run.as_ref().and_then(Run::started_at) {
            // It was quicker than the end of `runc start` could be noticed.
            container.started_at = Some(started_at);
        }
        let (code, signal) = match ended {
            Ended::Code(code) => (code, None),
            Ended::Signal(signal) => (128 + signal, Some(signal)),
        };
        let events = container.spec.oom_events.as_ref();
        let kills = events
            .and_then(|path| std::fs::read_to_string(path).ok())
            .map_or(0, |events| cgroup::oom_kills(&events));
        let state = ContainerState::Exited {
            code,
            signal,
            oom_killed: kills > 0 && code != 0,
            started_at: container.started_at,
            finished_at,
        };
        if let Err(error) = record::write(&container.spec.bundle, &state) {
            eprintln!("exit record of {id}: {error}");
        }
        container.pid = None;
        container.state = Some(state);
        self.changed = true;
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let runs = self.table.values().filter_map(|it| it.run.as_ref());
        let runs = runs.filter(|run| !run.timed_out).map(|run| run.deadline);
        let commands = self.table.values().flat_map(|it| &it.commands);
        let attachments = self.attachments.iter().filter_map(Attachment::deadline);
        runs.chain(commands.filter_map(Command::deadline))
            .chain(attachments)
            .min()
    }

    /// Kills each runc that takes too long; what follows, follows from its end.
    pub(crate) fn expire(&mut self, now: Instant) {
        for container in self.table.values_mut() {
            if let Some(run) = &mut container.run
                && !run.timed_out
                && run.deadline <= now
            {
                run.kill();
            }
            for command in &mut container.commands {
                command.expire(now);
            }
        }
        for attachment in &mut self.attachments {
            attachment.expire(now);
        }
    }

    fn fail(&mut self, reply: Reply, failure: Failure) {
        self.answers.push((reply, Answer::Failed(failure)));
    }

    fn answer(&mut self, reply: Option<Reply>, answer: Answer) {
        self.answers.extend(reply.map(|reply| (reply, answer)));
    }
}

impl Container {
    /// Something has been started whose process id is not known yet.
    fn begins(&self) -> bool {
        self.state.is_none() || self.commands.iter().any(Command::begins)
    }
}

/// A client has not read yet what the container wrote before.
fn is_held_up(attachments: &[Attachment], id: &str) -> bool {
    let mut all = attachments.iter();
    all.any(|attachment| attachment.container == id && attachment.is_behind())
}

fn show(attachments: &mut [Attachment], id: &str, stream: Stream, bytes: &[u8]) {
    let all = attachments.iter_mut();
    for attachment in all.filter(|attachment| attachment.container == id) {
        attachment.write(stream, bytes);
    }
}

fn internal(doing: &str, error: &io::Error) -> Failure {
    Failure::Internal(format!("{doing}: {error}"))
}
