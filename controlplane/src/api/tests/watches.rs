//! Watches, frame by frame.

use futures::{AsyncBufReadExt, StreamExt};
use serde_json::json;

use super::*;

type Frames = std::pin::Pin<Box<dyn futures::Stream<Item = Value> + Send>>;

async fn watch(client: &kube::Client, path: &str, accept: &str) -> Frames {
    let request = http::Request::get(path)
        .header("accept", accept)
        .body(Vec::new())
        .unwrap();
    let lines = client.request_stream(request).await.unwrap().lines();
    Box::pin(lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}

/// Type and name of the next frame that is not a bookmark.
async fn next(frames: &mut Frames) -> (String, Value) {
    let deadline = std::time::Duration::from_secs(20);
    let frame = tokio::time::timeout(deadline, frames.next())
        .await
        .unwrap()
        .unwrap();
    (
        frame["type"].as_str().unwrap().to_owned(),
        frame["object"].clone(),
    )
}

async fn next_name(frames: &mut Frames) -> (String, String) {
    let (event, object) = next(frames).await;
    (
        event,
        object["metadata"]["name"].as_str().unwrap_or("").to_owned(),
    )
}

fn body(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"l": label}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_and_go_with_the_selector() {
    let member = member().await;
    member.post(CM, &body("a", "x")).await.ok();
    let mut frames = watch(
        &member.client,
        &format!("{CM}?watch=1&labelSelector=l%3Dx"),
        "",
    )
    .await;
    assert_eq!(next_name(&mut frames).await, ("ADDED".into(), "a".into()));
    member.post(CM, &body("b", "y")).await.ok();
    let path = format!("{CM}/b");
    let label = |value: &str| json!({"metadata": {"labels": {"l": value}}});
    member.patch(&path, "merge-patch", &label("x")).await.ok();
    assert_eq!(next_name(&mut frames).await, ("ADDED".into(), "b".into()));
    member
        .patch(&path, "merge-patch", &json!({"data": {"k": "v"}}))
        .await
        .ok();
    assert_eq!(
        next_name(&mut frames).await,
        ("MODIFIED".into(), "b".into())
    );
    let moved = member.patch(&path, "merge-patch", &label("z")).await.ok();
    let (event, object) = next(&mut frames).await;
    assert_eq!(event, "DELETED");
    assert_eq!(
        object["metadata"]["labels"]["l"], "x",
        "the last state that was selected"
    );
    assert_eq!(
        object["metadata"]["resourceVersion"],
        moved["metadata"]["resourceVersion"]
    );
    member.delete(&path, &Value::Null).await.ok();
    member.delete(&format!("{CM}/a"), &Value::Null).await.ok();
    assert_eq!(next_name(&mut frames).await, ("DELETED".into(), "a".into()));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_without_gap_or_duplicate() {
    let member = member().await;
    let start = member.post(CM, &body("start", "x")).await.ok();
    let version = start["metadata"]["resourceVersion"].as_str().unwrap();
    for n in 0..20 {
        member.post(CM, &body(&format!("n{n:02}"), "x")).await.ok();
    }
    let path = format!("{CM}?watch=1&labelSelector=l&resourceVersion={version}");
    let mut frames = watch(&member.client, &path, "").await;
    for n in 0..20 {
        assert_eq!(
            next_name(&mut frames).await,
            ("ADDED".into(), format!("n{n:02}"))
        );
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_initial_state_can_be_streamed() {
    let member = member().await;
    for name in ["a", "b"] {
        member.post(CM, &body(name, "x")).await.ok();
    }
    let path = format!(
        "{CM}?watch=1&labelSelector=l&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut frames = watch(&member.client, &path, "").await;
    assert_eq!(next_name(&mut frames).await, ("ADDED".into(), "a".into()));
    assert_eq!(next_name(&mut frames).await, ("ADDED".into(), "b".into()));
    let (event, object) = next(&mut frames).await;
    assert_eq!(event, "BOOKMARK");
    assert_eq!(
        object["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(object["kind"], "ConfigMap");
    let lacking = format!("{CM}?watch=1&sendInitialEvents=true");
    assert_eq!(member.get(&lacking).await.code, 422);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_with_a_bookmark_and_old_versions_are_gone() {
    let member = member().await;
    let path = format!("{CM}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&labelSelector=none");
    let mut frames = watch(&member.client, &path, "").await;
    assert_eq!(next(&mut frames).await.0, "BOOKMARK");
    assert!(frames.next().await.is_none());

    let store = member.controller.store_for_tests();
    store.compact(store.revision()).await.unwrap();
    let gone = member.get(&format!("{CM}?watch=1&resourceVersion=2")).await;
    assert_eq!((gone.code, gone.reason()), (410, "Expired"));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_watch_names_its_columns_once() {
    let member = member().await;
    member.post(CM, &body("a", "x")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut frames = watch(
        &member.client,
        &format!("{CM}?watch=1&labelSelector=l"),
        accept,
    )
    .await;
    let (_, first) = next(&mut frames).await;
    assert_eq!(first["kind"], "Table");
    assert_eq!(first["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["rows"][0]["cells"][0], "a");
    member.post(CM, &body("b", "x")).await.ok();
    let (_, second) = next(&mut frames).await;
    assert_eq!(second["rows"][0]["cells"][0], "b");
    assert!(second["columnDefinitions"].is_null());
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_watches_at_once() {
    let member = member().await;
    let mut frames = watch(
        &member.client,
        &format!("{CM}?watch=1&labelSelector=none"),
        "",
    )
    .await;
    let started = std::time::Instant::now();
    let end = tokio::spawn(async move { while frames.next().await.is_some() {} });
    member.controller.shutdown().await;
    end.await.unwrap();
    assert!(
        started.elapsed() < std::time::Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_cut_off_with_an_error_and_the_others_are_not() {
    const CHANGES: usize = 60;
    let member = member().await;
    member.post(CM, &body("a", "x")).await.ok();
    let path = format!("{CM}?watch=1&labelSelector=l");
    // On a connection of its own.
    let client = admin(&member.controller).await;
    let mut slow = watch(&client, &path, "").await;
    let mut quick = watch(&member.client, &path, "").await;
    for frames in [&mut slow, &mut quick] {
        assert_eq!(next_name(frames).await, ("ADDED".into(), "a".into()));
    }
    // Far more than a watcher may leave unread, and what is in buffers on the way to it.
    let text = "x".repeat(900_000);
    for turn in 0..CHANGES {
        let data = json!({"data": {"t": format!("{turn} {text}")}});
        let path = format!("{CM}/a");
        member.patch(&path, "merge-patch", &data).await.ok();
        let changed = next_name(&mut quick).await;
        assert_eq!(changed, ("MODIFIED".into(), "a".into()));
    }
    // Where it reads again, it is shown what was on the way, and then why there is no more.
    let mut shown = 0;
    let error = loop {
        match next(&mut slow).await {
            (event, object) if event == "ERROR" => break object,
            (event, _) => assert_eq!(event, "MODIFIED"),
        }
        shown += 1;
    };
    assert_eq!(
        (&error["code"], &error["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(shown < CHANGES, "{shown}");
    assert!(slow.next().await.is_none());
    drop(quick);
    member.controller.shutdown().await;
}
