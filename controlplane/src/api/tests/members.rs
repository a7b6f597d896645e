//! Starting and stopping a member.

use serde_json::json;

use super::*;
use crate::StartError;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_finds_everything_again() {
    let first = member().await;
    let made = first
        .post(CM, &json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let kubeconfig = first.controller.admin_kubeconfig("https://x");
    first.controller.shutdown().await;
    let again = Controller::start(config(first.dir.path())).await.unwrap();
    assert_eq!(again.admin_kubeconfig("https://x"), kubeconfig);
    let client = admin(&again).await;
    let found = send(&client, Method::GET, &format!("{CM}/a"), &[], "")
        .await
        .ok();
    assert_eq!(found, made);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_named() {
    let member = member().await;
    let busy = Controller::start(config(member.dir.path()))
        .await
        .unwrap_err();
    assert!(matches!(busy, StartError::InUse { .. }), "{busy}");
    assert!(busy.to_string().contains("in use"), "{busy}");

    let other = tempfile::tempdir().unwrap();
    let mut taken = config(other.path());
    taken.listen = member.controller.address();
    let error = Controller::start(taken).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    // What failed left nothing locked.
    let free = Controller::start(config(other.path())).await.unwrap();
    free.shutdown().await;

    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Controller::start(config(&file.join("data")))
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::DataDir { .. }), "{error}");

    let mut wrong = config(other.path());
    wrong.cluster_dns = "192.0.2.53".parse().unwrap();
    let error = Controller::start(wrong).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("192.0.2.53 is not in the first Service range"),
        "{error}"
    );
    let mut wrong = config(other.path());
    wrong.pod_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    assert!(
        Controller::start(wrong)
            .await
            .unwrap_err()
            .to_string()
            .contains("overlap")
    );
    member.controller.shutdown().await;
}
