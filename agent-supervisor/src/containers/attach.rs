//! Attaching to running containers: who sees their output, and who holds their input.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{Containers, internal};
use crate::attachment::{Attachment, Wanted};
use crate::protocol::{Answer, Attach, ContainerState, Failure};

/// Clients at once, of all of the pod's containers.
const MAX_ATTACHMENTS: usize = 64;

impl Containers {
    /// Whether it can be attached to, what the client is told, and what [`Self::attached`] then needs.
    pub(crate) fn attach(&self, attach: &Attach) -> Result<(Answer, Wanted), Failure> {
        let container = self.table.get(&attach.id).ok_or(Failure::NotFound)?;
        match &container.state {
            Some(ContainerState::Running { .. } | ContainerState::Created) => {}
            Some(ContainerState::Exited { .. }) => {
                return Err(Failure::Conflict("ended".to_owned()));
            }
            None => return Err(Failure::Conflict("being created".to_owned())),
        }
        if self.attachments.len() >= MAX_ATTACHMENTS {
            return Err(Failure::Internal("too many clients".to_owned()));
        }
        let terminal = container.spec.terminal;
        let descriptor = if terminal {
            container
                .output
                .as_ref()
                .and_then(|output| output.terminal())
        } else {
            container.stdin_writer.as_ref()
        };
        let wanted = attach.stdin && container.spec.stdin || terminal;
        let input: Option<OwnedFd> = descriptor
            .filter(|_| wanted)
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|error| internal("input", &error))?;
        let answer = Answer::Attached {
            terminal,
            once: container.spec.stdin_once,
        };
        let wanted = Wanted {
            container: attach.id.clone(),
            stdout: attach.stdout,
            stderr: attach.stderr && !terminal,
            input,
        };
        Ok((answer, wanted))
    }

    /// The answer is out: from now on the connection carries output.
    pub(crate) fn attached(&mut self, stream: UnixStream, wanted: Wanted) {
        match Attachment::begin(stream, wanted) {
            Ok(attachment) => self.attachments.push(attachment),
            Err(error) => eprintln!("attach: {error}"),
        }
    }

    /// Connections of clients, and whether something waits to be written to each.
    pub(crate) fn attachments(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let all = self.attachments.iter();
        all.map(|attachment| (attachment.fd(), attachment.is_behind()))
    }

    /// Gives each client its turn and forgets those that are gone.
    pub(crate) fn serve_attachments(&mut self) {
        let table = &mut self.table;
        self.attachments.retain_mut(|attachment| {
            if attachment.turn()
                && let Some(container) = table.get_mut(&attachment.container)
                && container.spec.stdin_once
                && !container.spec.terminal
            {
                container.stdin_writer = None;
            }
            !attachment.is_over()
        });
    }
}
