//! Lists: pages, selectors, resource versions.

use serde_json::json;

use super::*;
use crate::registry::list::Continue;

async fn fill(member: &Member, count: usize) {
    for n in 0..count {
        let labels = json!({"half": if n % 2 == 0 { "even" } else { "odd" }});
        let body = json!({"metadata": {"name": format!("c{n:03}"), "labels": labels}});
        member.post(CM, &body).await.ok();
    }
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .filter(|name| name.starts_with('c'))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_state() {
    let member = member().await;
    fill(&member, 25).await;
    let first = member
        .get(&format!("{CM}?limit=10&labelSelector=half"))
        .await
        .ok();
    assert_eq!(names(&first).len(), 10);
    assert_eq!(
        first["metadata"]["remainingItemCount"],
        Value::Null,
        "unknown while sifting"
    );
    // What happens in between is not seen by later pages.
    member
        .post(
            CM,
            &json!({"metadata": {"name": "c999", "labels": {"half": "x"}}}),
        )
        .await
        .ok();
    member
        .delete(&format!("{CM}/c020"), &Value::Null)
        .await
        .ok();
    let mut all = names(&first);
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    while !token.is_empty() {
        let path = format!("{CM}?limit=10&labelSelector=half&continue={token}");
        let page = member.get(&path).await.ok();
        assert_eq!(
            page["metadata"]["resourceVersion"],
            first["metadata"]["resourceVersion"]
        );
        all.extend(names(&page));
        token = page["metadata"]["continue"]
            .as_str()
            .unwrap_or("")
            .to_owned();
    }
    let expected: Vec<String> = (0..25).map(|n| format!("c{n:03}")).collect();
    assert_eq!(all, expected);
    let plain = member.get(&format!("{CM}?limit=10")).await.ok();
    assert!(plain["metadata"]["remainingItemCount"].as_u64().unwrap() >= 15);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_compacted_states_expire_with_a_way_on() {
    let member = member().await;
    fill(&member, 6).await;
    let token = Continue::new(3, "default/c001").encode();
    let store = member.controller.store_for_tests();
    store.compact(store.revision()).await.unwrap();
    let path = format!("/api/v1/configmaps?limit=2&continue={token}");
    let expired = member.get(&path).await;
    assert_eq!((expired.code, expired.reason()), (410, "Expired"));
    let on = expired.json["metadata"]["continue"].as_str().unwrap();
    let page = member
        .get(&format!("/api/v1/configmaps?limit=2&continue={on}"))
        .await
        .ok();
    assert_eq!(names(&page), ["c002", "c003"]);
    let nonsense = member.get(&format!("{CM}?limit=1&continue=nonsense")).await;
    assert_eq!(nonsense.code, 400);
    let old = member
        .get(&format!(
            "{CM}?resourceVersion=2&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(old.code, 410);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_and_versions() {
    let member = member().await;
    fill(&member, 6).await;
    let even = member
        .get(&format!("{CM}?labelSelector=half%20in%20(even)"))
        .await
        .ok();
    assert_eq!(names(&even), ["c000", "c002", "c004"]);
    let one = member
        .get("/api/v1/configmaps?fieldSelector=metadata.name%3Dc003")
        .await
        .ok();
    assert_eq!(names(&one), ["c003"]);
    let one = member
        .get(&format!("{CM}?fieldSelector=metadata.name%3Dc003"))
        .await
        .ok();
    assert_eq!(names(&one), ["c003"]);
    let not = member
        .get(&format!(
            "{CM}?fieldSelector=metadata.name!%3Dc003&labelSelector=half%3Dodd"
        ))
        .await
        .ok();
    assert_eq!(names(&not), ["c001", "c005"]);
    assert_eq!(
        member.get(&format!("{CM}?labelSelector=a%20b")).await.code,
        400
    );
    let unsupported = member.get(&format!("{CM}?fieldSelector=data.x%3D1")).await;
    assert_eq!(
        (unsupported.code, unsupported.message()),
        (
            400,
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    );
    let pods = "/api/v1/namespaces/default/pods?fieldSelector=data.x%3D1";
    assert_eq!(
        member.get(pods).await.message(),
        "field label not supported: data.x"
    );

    let now: u64 = even["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    for place in [CM.to_owned(), format!("{CM}/c003")] {
        let future = member
            .get(&format!("{place}?resourceVersion={}", now + 10_000))
            .await;
        assert_eq!(future.code, 504);
        assert!(
            future.message().starts_with("Too large resource version"),
            "{}",
            future.message()
        );
    }
    for (query, field) in [
        ("sendInitialEvents=true", "sendInitialEvents"),
        (
            "resourceVersionMatch=NotOlderThan&continue=abc",
            "resourceVersionMatch",
        ),
    ] {
        let refused = member.get(&format!("{CM}?{query}")).await;
        assert_eq!(refused.code, 422, "{query}");
        assert_eq!(refused.json["details"]["causes"][0]["field"], field);
    }
    assert_eq!(
        member.get(&format!("{CM}?timeoutSeconds=x")).await.code,
        400
    );
    assert_eq!(
        member.get(&format!("{CM}?resourceVersion=0")).await.code,
        200
    );
    assert_eq!(
        member.get(&format!("{CM}?resourceVersion=abc")).await.code,
        400
    );
    let exact = member
        .get(&format!(
            "{CM}?resourceVersion={now}&resourceVersionMatch=Exact"
        ))
        .await
        .ok();
    assert_eq!(exact["metadata"]["resourceVersion"], now.to_string());
    assert_eq!(
        member
            .get(&format!("{CM}?resourceVersionMatch=Exact"))
            .await
            .code,
        422
    );
    member.controller.shutdown().await;
}
