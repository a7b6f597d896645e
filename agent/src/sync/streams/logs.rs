//! The log of a container, for `kubectl logs`.

use std::time::{Duration, SystemTime};

use proto::node::v1 as wire;
use tokio::sync::{mpsc, watch};

use super::{FROM_POD, Refusal, data};
use crate::pods::{ContainerSnapshot, Machine, Pods, Snapshot};
use crate::runtime::logs::{LogOptions, LogStream};

pub(super) async fn write<M: Machine>(
    pods: &Pods<M>,
    request: &wire::StreamRequest,
    logs: &wire::LogsRequest,
    send: &mpsc::Sender<wire::StreamFrame>,
) -> Result<(), Refusal> {
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
                Ok(Some(bytes)) => {
                    if send.send(data(FROM_POD, bytes)).await.is_err() {
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
        stderr: match logs.stream.as_str() {
            "Stdout" => Some(false),
            "Stderr" => Some(true),
            _ => None,
        },
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
                Some("ErrImagePull") => "waiting to start: image can't be pulled".to_owned(),
                Some("ImagePullBackOff") => {
                    "waiting to start: trying and failing to pull image".to_owned()
                }
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
