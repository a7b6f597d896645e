//! Exec and attach: between the frames of a call and the streams of a process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proto::node::v1 as wire;
use proto::node::v1::stream_frame::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::sizes::{Size, Sizes};
use super::{Call, FROM_POD, RESIZE, Refusal, STATUS, STDERR, TO_POD, data};
use crate::pods::{Machine, Pods};
use crate::runtime::RuntimeError;
use crate::runtime::session::{self, Closer, Input, Output, Source, Terminal, Wanted};

/// A client says the size of its terminal at once; for so long it is waited for, so that the command begins with it.
const SIZE: Duration = Duration::from_millis(100);
/// What a client says before its size, and is kept until the command runs.
const MAX_EARLY: usize = 64 << 10;

/// A container that runs.
struct Place {
    dir: PathBuf,
    id: String,
    uid: String,
    /// It reads what clients say.
    stdin: bool,
}

/// As the kubelet says it, whatever the reason.
fn no_container(name: &str) -> String {
    format!("container not found (\"{name}\")")
}

fn place<M: Machine>(pods: &Pods<M>, request: &wire::StreamRequest) -> Result<Place, Refusal> {
    let name = &request.container;
    let snapshot = pods
        .find(&request.namespace, &request.pod)
        .ok_or_else(|| Refusal::words(404, "pod does not exist".to_owned()))?;
    let container = snapshot.containers.get(name);
    let number = container
        .filter(|container| container.live)
        .and_then(|container| container.current)
        .ok_or_else(|| Refusal::words(500, no_container(name)))?;
    let uid = snapshot.key.uid.clone();
    Ok(Place {
        dir: snapshot.dirs.run.clone(),
        id: format!("{uid}_{name}_{number}"),
        uid,
        stdin: has_input(&snapshot.pod, name),
    })
}

/// Ephemeral containers are no containers by type; they have the same field.
fn has_input(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    let all = spec.containers.iter().chain(init);
    let all = all.map(|container| (&container.name, container.stdin));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|container| (&container.name, container.stdin));
    all.chain(ephemeral)
        .any(|(known, stdin)| known == name && stdin == Some(true))
}

pub(super) async fn exec<M: Machine>(
    pods: &Pods<M>,
    request: &wire::StreamRequest,
    exec: &wire::ExecRequest,
    call: &mut Call,
) -> Result<(), Refusal> {
    let place = place(pods, request)?;
    let mut wanted = Wanted {
        stdin: exec.stdin,
        stdout: exec.stdout,
        stderr: exec.stderr,
        tty: exec.tty,
        size: None,
    };
    if call.accept(&place.uid).await.is_none() {
        return Ok(());
    }
    let mut said = Said::default();
    if wanted.tty {
        let size = said.first_size(&mut call.incoming).await;
        wanted.size = size.map(|size| (size.width, size.height));
    }
    let started = session::exec(&place.dir, &place.id, &exec.command, wanted).await;
    let outcome = match started {
        Ok(mut command) => {
            let inlet = Inlet {
                input: command.input.take(),
                terminal: command.terminal.clone(),
                closer: None,
            };
            let output = async {
                while let Output::Bytes(source, bytes) = command.output().await {
                    tell(&call.send, wanted, source, bytes).await?;
                }
                Some(command.exit())
            };
            tokio::select! {
                ended = output => match ended {
                    Some(ended) => ended,
                    None => return Ok(()),
                },
                () = listen(&mut call.incoming, said, inlet) => return Ok(()),
            }
        }
        Err(error) => Err(error),
    };
    let status = status(outcome, &exec.command, &request.container);
    // When nobody reads it, nobody wants to know.
    let _ = call
        .send
        .send(data(STATUS, status.to_string().into()))
        .await;
    Ok(())
}

pub(super) async fn attach<M: Machine>(
    pods: &Pods<M>,
    request: &wire::StreamRequest,
    attach: &wire::AttachRequest,
    call: &mut Call,
) -> Result<(), Refusal> {
    let place = place(pods, request)?;
    let wanted = Wanted {
        // What a container is told that reads nothing goes nowhere, and its end is nobody's.
        stdin: attach.stdin && place.stdin,
        stdout: attach.stdout,
        stderr: attach.stderr,
        tty: false,
        size: None,
    };
    let mut container = session::attach(&place.dir, &place.id, wanted)
        .await
        .map_err(|error| Refusal::words(500, words(&error, &request.container)))?;
    if call.accept(&place.uid).await.is_none() {
        return Ok(());
    }
    let inlet = Inlet {
        input: container.input.take(),
        terminal: container.terminal.clone(),
        closer: wanted.stdin.then(|| container.closer.clone()),
    };
    let output = async {
        while let Output::Bytes(source, bytes) = container.output().await {
            tell(&call.send, wanted, source, bytes).await?;
        }
        Some(())
    };
    let incoming = &mut call.incoming;
    tokio::select! {
        // The container has ended, or the client is gone.
        ended = output => if ended.is_none() { return Ok(()) },
        () = listen(incoming, Said::default(), inlet) => {}
    }
    let success = json!({"metadata": {}, "status": "Success"});
    let _ = call
        .send
        .send(data(STATUS, success.to_string().into()))
        .await;
    Ok(())
}

/// `None` when the client is gone.
async fn tell(
    send: &mpsc::Sender<wire::StreamFrame>,
    wanted: Wanted,
    source: Source,
    bytes: bytes::Bytes,
) -> Option<()> {
    let (channel, wanted) = match source {
        Source::Stdout => (FROM_POD, wanted.stdout),
        Source::Stderr => (STDERR, wanted.stderr),
    };
    if !wanted {
        return Some(());
    }
    send.send(data(channel, bytes)).await.ok()
}

/// Where what the client says goes.
struct Inlet {
    input: Option<Input>,
    terminal: Option<Terminal>,
    /// Of a container that is attached to and reads.
    closer: Option<Closer>,
}

/// What the client has said and nobody has heard.
#[derive(Default)]
struct Said {
    early: VecDeque<wire::StreamFrame>,
    sizes: Sizes,
    over: bool,
}

impl Said {
    async fn next(
        &mut self,
        incoming: &mut tonic::Streaming<wire::StreamFrame>,
    ) -> Option<wire::StreamFrame> {
        match self.early.pop_front() {
            Some(frame) => Some(frame),
            None if self.over => None,
            None => incoming.message().await.ok().flatten(),
        }
    }

    /// The size of its terminal, if it says that soon; all else that it says is kept.
    async fn first_size(
        &mut self,
        incoming: &mut tonic::Streaming<wire::StreamFrame>,
    ) -> Option<Size> {
        let deadline = Instant::now() + SIZE;
        let mut kept = 0;
        while kept < MAX_EARLY {
            let message = tokio::time::timeout_at(deadline, incoming.message());
            let Ok(message) = message.await else {
                return None;
            };
            let Ok(Some(message)) = message else {
                self.over = true;
                return None;
            };
            match &message.frame {
                Some(Frame::Data(said)) if said.channel == RESIZE => {
                    if let Some(size) = self.sizes.push(&said.data) {
                        return Some(size);
                    }
                }
                Some(Frame::Data(said)) => {
                    kept += said.data.len().max(1);
                    self.early.push_back(message);
                }
                _ => {
                    kept += 1;
                    self.early.push_back(message);
                }
            }
        }
        None
    }
}

/// What the client says; ends when it has hung up, or when it has said its last to a container that others may
/// speak to after it.
async fn listen(
    incoming: &mut tonic::Streaming<wire::StreamFrame>,
    mut said: Said,
    mut inlet: Inlet,
) {
    while let Some(message) = said.next(incoming).await {
        match message.frame {
            Some(Frame::Data(it)) if it.channel == TO_POD => {
                if let Some(input) = &mut inlet.input
                    && input.write(&it.data).await.is_err()
                {
                    // The process does not read any more; it may go on all the same.
                    inlet.input = None;
                }
            }
            Some(Frame::CloseChannel(TO_POD)) => {
                inlet.input = None;
                if let Some(closer) = &inlet.closer {
                    if !closer.ends_input {
                        return;
                    }
                    closer.close().await;
                }
            }
            Some(Frame::Data(it)) if it.channel == RESIZE => {
                if let (Some(terminal), Some(size)) = (&inlet.terminal, said.sizes.push(&it.data))
                    && let Err(error) = terminal.resize(size.width, size.height)
                {
                    tracing::debug!(%error, "a terminal was not resized");
                }
            }
            _ => {}
        }
    }
}

/// What is wrong with a container, in the words of the kubelet.
fn words(error: &RuntimeError, container: &str) -> String {
    match error {
        RuntimeError::NotFound(_) | RuntimeError::Conflict { .. } => no_container(container),
        RuntimeError::Runc { message, .. } => {
            format!("failed to exec in container: OCI runtime exec failed: {message}")
        }
        other => other.to_string(),
    }
}

/// How a command ended, as version 4 of the protocol says it.
fn status(outcome: Result<i32, RuntimeError>, command: &[String], container: &str) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let command = command.join(" ");
            let what = format!("error executing command [{command}], exit code {code}");
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: {what}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            })
        }
        Err(error) => {
            let why = format!(
                "error executing command in container: {}",
                words(&error, container)
            );
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ends_of_commands() {
        let command = ["sh", "-c", "exit 3"].map(str::to_owned);
        assert_eq!(status(Ok(0), &command, "c")["status"], "Success");
        let failed = status(Ok(3), &command, "c");
        assert_eq!(failed["reason"], "NonZeroExitCode");
        let cause = json!({"reason": "ExitCode", "message": "3"});
        assert_eq!(failed["details"]["causes"][0], cause);
        assert_eq!(
            failed["message"],
            "command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3"
        );
        let gone = RuntimeError::NotFound("u_c_0".to_owned());
        assert_eq!(
            status(Err(gone), &command, "c")["message"],
            "Internal error occurred: error executing command in container: container not found (\"c\")"
        );
    }
}
