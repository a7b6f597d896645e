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

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_majority_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
    };
    let mut config = config(dir.path());
    config.listen = free().unwrap();
    config.peers = Some(crate::PeerSettings {
        listen: free().unwrap(),
        address: None,
    });
    // One that was admitted, and has not heard of the others yet.
    let admission = crate::Admission {
        id: 2,
        cluster: "c".to_owned(),
        since: 7,
        files: std::collections::BTreeMap::new(),
    };
    crate::accept_admission(dir.path(), &admission).unwrap();
    let url = format!("https://{}", config.listen);
    let kubeconfig = crate::controller::admin_kubeconfig_of(&dir.path().join("pki"), &url);
    let starting = tokio::spawn(Controller::start(config));
    let reached = async {
        while tokio::net::TcpStream::connect(&url["https://".len()..])
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, reached).await.unwrap();
    let admin = client(&kubeconfig).await;
    let get = async |path: &str| send(&admin, Method::GET, path, &[], "").await;
    for path in ["/healthz", "/livez", "/version"] {
        assert_eq!(get(path).await.code, 200, "{path}");
    }
    let ready = get("/readyz").await;
    assert_eq!(ready.code, 500);
    assert_eq!(
        ready.bytes,
        "[+]ping ok\n[-]quorum failed: this member waits for a majority of the members\n\
         readyz check failed\n"
    );
    let metrics = get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.contains("waggle_store_has_leader 0"), "{text}");
    let stale = "/waggle/v1/snapshot?stale=true";
    let saved = get(stale).await;
    assert!(saved.code == 200 && saved.bytes.starts_with(b"waggle-snapshot 1\n"));

    for path in [CM, "/apis", "/waggle/v1/snapshot", "/waggle/v1/status"] {
        let refused = get(path).await;
        assert_eq!(
            (refused.code, refused.reason()),
            (503, "ServiceUnavailable")
        );
        assert!(refused.message().contains("no leader: "), "{refused:?}");
        assert!(refused.headers.contains_key("retry-after"));
    }
    let made = send(&admin, Method::POST, CM, &[JSON], "{}").await;
    assert_eq!(made.code, 503);
    let acting = [("impersonate-user", "somebody")];
    let acting = send(&admin, Method::GET, stale, &acting, "").await;
    assert_eq!(acting.code, 503);
    assert!(!starting.is_finished());
    starting.abort();
}
