//! Quotas and limit ranges, as those who run into them see them.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::{CM, Member, member};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

async fn counted(member: &Member, name: &str, resource: &str, wanted: &str) {
    let looked = async {
        loop {
            let quota = member.get(&format!("{QUOTAS}/{name}")).await.ok();
            if quota["status"]["used"][resource] == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looked)
        .await
        .unwrap();
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_never_exceeded_and_gives_back() {
    let member = member().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "6"}}});
    assert_eq!(member.post(QUOTAS, &quota).await.code, 201);
    let path = format!("{QUOTAS}/q");
    let looked = async {
        while member.get(&path).await.json["status"]["used"]["count/configmaps"].is_null() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looked)
        .await
        .unwrap();
    // The namespace has some of its own, or will have soon.
    let names: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let made = futures::future::join_all(names.iter().map(|name| {
        let (body, member) = (config_map(name), &member);
        async move { member.post(CM, &body).await }
    }))
    .await;
    let refused = made.iter().find(|answer| answer.code != 201).unwrap();
    assert_eq!(refused.code, 403, "{}", refused.json);
    assert!(
        refused.message().contains("is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=6, limited: count/configmaps=6"),
        "{}",
        refused.message()
    );
    let all = member.get(CM).await.ok();
    assert_eq!(all["items"].as_array().unwrap().len(), 6);
    let last = made.iter().position(|answer| answer.code == 201).unwrap();
    assert_eq!(
        member
            .delete(&format!("{CM}/c{last}"), &Value::Null)
            .await
            .code,
        200
    );
    counted(&member, "q", "count/configmaps", "5").await;
    assert_eq!(member.post(CM, &config_map("again")).await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_range_gives_defaults_and_bounds() {
    let member = member().await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}]}});
    let made = member
        .post("/api/v1/namespaces/default/limitranges", &range)
        .await
        .ok();
    assert_eq!(made["spec"]["limits"][0]["default"]["cpu"], "1");
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |resources: Value| {
        json!({"metadata": {"generateName": "p-"}, "spec": {"serviceAccountName": "default",
            "containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    let answer = member
        .post(pods, &pod(json!({"limits": {"cpu": "2"}})))
        .await;
    assert_eq!(answer.code, 403, "{}", answer.json);
    assert!(
        answer
            .message()
            .ends_with("is forbidden: maximum cpu usage per Container is 1, but limit is 2"),
        "{}",
        answer.message()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_not_resized_beyond_what_its_namespace_allows() {
    let member = member().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "500m"}}});
    assert_eq!(member.post(QUOTAS, &quota).await.code, 201);
    counted(&member, "q", "requests.cpu", "0").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "default",
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "200m"}}}]}});
    assert_eq!(member.post(pods, &pod).await.code, 201);
    let resize = async |cpu: &str| {
        let asked = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let path = format!("{pods}/p/resize");
        member.patch(&path, "strategic-merge-patch", &asked).await
    };
    assert_eq!(resize("400m").await.code, 200);
    counted(&member, "q", "requests.cpu", "400m").await;
    let refused = resize("600m").await;
    assert_eq!(refused.code, 403, "{}", refused.json);
    assert!(
        refused.message().ends_with(
            "exceeded quota: q, requested: requests.cpu=200m, used: requests.cpu=400m, limited: requests.cpu=500m"
        ),
        "{}",
        refused.message()
    );
    assert_eq!(resize("100m").await.code, 200);
    counted(&member, "q", "requests.cpu", "100m").await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "min": {"cpu": "50m"}}]}});
    let ranges = "/api/v1/namespaces/default/limitranges";
    assert_eq!(member.post(ranges, &range).await.code, 201);
    let refused = resize("10m").await;
    assert_eq!(refused.code, 403, "{}", refused.json);
    let why = "is forbidden: minimum cpu usage per Container is 50m, but request is 10m";
    assert!(refused.message().ends_with(why), "{}", refused.message());
}
