//! Byte streams out of pods that the control plane asked for: logs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::node::v1 as wire;
use proto::node::v1::node_sync_client::NodeSyncClient;
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::stream_request::Kind;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::pods::{ContainerSnapshot, Machine, Pods, Snapshot};
use crate::runtime::logs::{LogOptions, LogStream};

/// Channel of the output.
const OUTPUT: u32 = 1;
/// Frames that wait for a slow reader; more of the log is read when they are gone.
const FRAMES: usize = 8;

/// Why there is no stream: as the API server is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    code: u32,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn bad_request(message: String) -> Self {
        Self {
            code: 400,
            reason: "BadRequest",
            message,
        }
    }

    fn not_found(message: String) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message,
        }
    }
}

/// Opens the stream that was asked for and serves it to its end.
pub(crate) async fn serve<M: Machine>(
    mut client: NodeSyncClient<Channel>,
    pods: Arc<Pods<M>>,
    request: wire::StreamRequest,
) {
    let (send, frames) = mpsc::channel(FRAMES);
    let open = Frame::Open(wire::StreamOpen {
        id: request.id.clone(),
    });
    if send.send(frame(open)).await.is_err() {
        return;
    }
    let id = request.id.clone();
    let writer = async {
        if let Err(refusal) = write(&pods, &request, &send).await {
            let error = Frame::Error(wire::StreamError {
                code: refusal.code,
                reason: refusal.reason.to_owned(),
                message: refusal.message,
            });
            let _ = send.send(frame(error)).await;
        }
        drop(send);
        // The reader below decides when the call is over.
        std::future::pending::<()>().await;
    };
    let reader = async {
        let mut incoming = client
            .stream(ReceiverStream::new(frames))
            .await?
            .into_inner();
        while incoming.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    };
    tokio::select! {
        outcome = reader => if let Err(status) = outcome {
            tracing::debug!(stream = %id, %status, "stream ended");
        },
        () = writer => {}
    }
}

fn frame(frame: Frame) -> wire::StreamFrame {
    wire::StreamFrame { frame: Some(frame) }
}

async fn write<M: Machine>(
    pods: &Pods<M>,
    request: &wire::StreamRequest,
    send: &mpsc::Sender<wire::StreamFrame>,
) -> Result<(), Refusal> {
    let Some(Kind::Logs(logs)) = &request.kind else {
        return Err(Refusal::bad_request(
            "the node does not know this kind of stream".to_owned(),
        ));
    };
    let snapshot = pods
        .find(&request.namespace, &request.pod)
        .ok_or_else(|| Refusal::not_found(format!("pod \"{}\" not found", request.pod)))?;
    let number = attempt(&snapshot, &request.container, logs.previous)?;
    let path = snapshot.dirs.log(&request.container, number);
    let (ended, over) = watch::channel(logs.previous);
    let mut stream = LogStream::open(&path, options(logs)?, over)
        .await
        .map_err(|error| Refusal::not_found(error.to_string()))?;
    let following = follow_end(
        pods.watch(&snapshot.key.uid),
        &request.container,
        number,
        &ended,
    );
    let copying = async {
        loop {
            match stream.next_chunk().await {
                Ok(Some(data)) => {
                    let data = Frame::Data(wire::StreamData {
                        channel: OUTPUT,
                        data,
                    });
                    if send.send(frame(data)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a log cannot be read on");
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = copying => {}
        () = following => {}
    }
    Ok(())
}

/// Says when the attempt has ended, and then waits for the reader to have read all.
async fn follow_end(
    snapshots: Option<watch::Receiver<Option<Snapshot>>>,
    container: &str,
    number: u32,
    ended: &watch::Sender<bool>,
) {
    if let Some(mut snapshots) = snapshots {
        let over = |snapshot: &Option<Snapshot>| {
            snapshot.as_ref().is_some_and(|snapshot| {
                snapshot
                    .containers
                    .get(container)
                    .is_none_or(|known| known.current != Some(number) || !known.live)
            })
        };
        // An error: the pod's worker is gone, and so is the pod, or the agent ends.
        let _ = snapshots.wait_for(over).await;
    }
    ended.send_replace(true);
    std::future::pending::<()>().await;
}

fn options(logs: &wire::LogsRequest) -> Result<LogOptions, Refusal> {
    let since = match (logs.since_seconds, logs.since_time.as_str()) {
        (Some(seconds), _) => {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            SystemTime::now().checked_sub(Duration::from_secs(seconds))
        }
        (None, "") => None,
        (None, text) => {
            let at: jiff::Timestamp = text
                .parse()
                .map_err(|_| Refusal::bad_request(format!("sinceTime {text:?} is no time")))?;
            Some(SystemTime::from(at))
        }
    };
    Ok(LogOptions {
        follow: logs.follow,
        tail_lines: logs.tail_lines.map(|n| u64::try_from(n).unwrap_or(0)),
        since,
        timestamps: logs.timestamps,
        limit_bytes: logs.limit_bytes.map(|n| u64::try_from(n).unwrap_or(0)),
    })
}

/// Which attempt's log is asked for.
fn attempt(snapshot: &Snapshot, container: &str, previous: bool) -> Result<u32, Refusal> {
    let pod = &snapshot.key.name;
    let known: &ContainerSnapshot = snapshot.containers.get(container).ok_or_else(|| {
        Refusal::bad_request(format!("container {container} is not valid for pod {pod}"))
    })?;
    if previous {
        // Between two attempts the last one is the previous one, as in `lastState`.
        let ended = known.current.filter(|_| known.waiting.is_some());
        return ended.or(known.previous).ok_or_else(|| {
            Refusal::bad_request(format!(
                "previous terminated container \"{container}\" in pod \"{pod}\" not found"
            ))
        });
    }
    match (known.current, known.previous) {
        (Some(current), _) => Ok(current),
        // Between two attempts the log is that of the last one.
        (None, Some(previous)) if known.waiting.is_none() => Ok(previous),
        _ => {
            // What ended without having begun has written nothing.
            let state = match known.waiting.as_deref() {
                Some(waiting) => format!("waiting to start: {waiting}"),
                None => "terminated".to_owned(),
            };
            Err(Refusal::bad_request(format!(
                "container \"{container}\" in pod \"{pod}\" is {state}"
            )))
        }
    }
}

#[cfg(test)]
mod tests;
