//! Jobs and CronJobs.

use k8s_openapi::api::batch::v1::{Job, JobSpec};

use super::*;
use crate::controllers::fixtures::template;

fn job(name: &str, image: &str, completions: i32, parallelism: i32) -> Job {
    let mut template = template();
    template.metadata = None;
    let spec = template.spec.as_mut().unwrap();
    spec.containers[0].image = Some(image.into());
    spec.restart_policy = Some("Never".into());
    Job {
        metadata: ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            completions: Some(completions),
            parallelism: Some(parallelism),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn has(job: Option<&Job>, kind: &str) -> bool {
    job.and_then(|job| job.status.as_ref()?.conditions.as_ref())
        .is_some_and(|all| {
            all.iter()
                .any(|one| one.type_ == kind && one.status == "True")
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_every_pod_once_and_goes_with_its_pods() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster
        .client
        .create(&job("many", "done", 40, 20))
        .await
        .unwrap();
    let jobs = cluster.cache.jobs.clone();
    let ended = cluster
        .until(&jobs, "ns", "many", |job| has(job, "Complete"))
        .await
        .unwrap();
    let status = ended.status.as_ref().unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(40), None, None)
    );
    let pods = cluster.cache.pods.list("ns");
    assert_eq!(pods.len(), 40, "no pod too many");
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
    cluster
        .client
        .delete::<Job>(
            "ns",
            "many",
            DeleteOptions {
                propagation: Some("Background".into()),
                ..DeleteOptions::default()
            },
        )
        .await
        .unwrap();
    cluster
        .eventually("nothing left", |cache| cache.pods.list("ns").is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_can_be_deleted_and_its_pods_are_not_held() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster
        .client
        .create(&job("long", "echo:1", 3, 3))
        .await
        .unwrap();
    cluster
        .eventually("ready pods", |cache| {
            let pods = cache.pods.list("ns");
            pods.len() == 3 && pods.iter().all(|pod| podstate::is_ready(pod))
        })
        .await;
    for propagation in ["Foreground", "Background"] {
        let options = DeleteOptions {
            propagation: Some(propagation.into()),
            ..DeleteOptions::default()
        };
        cluster
            .client
            .delete::<Job>("ns", "long", options)
            .await
            .unwrap();
    }
    cluster
        .eventually("nothing left", |cache| {
            cache.pods.list("ns").is_empty() && cache.jobs.list("ns").is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexed_job_suspends_resumes_and_fails_at_its_limit() {
    let cluster = Cluster::new(&["n1"]).await;
    let mut made = job("idx", "echo:1", 3, 3);
    let spec = made.spec.as_mut().unwrap();
    spec.completion_mode = Some("Indexed".into());
    cluster.client.create(&made).await.unwrap();
    cluster
        .eventually("ready pods", |cache| {
            let pods = cache.pods.list("ns");
            pods.len() == 3 && pods.iter().all(|pod| podstate::is_ready(pod))
        })
        .await;
    let mut hosts: Vec<_> = cluster
        .cache
        .pods
        .list("ns")
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.hostname.clone())
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["idx-0", "idx-1", "idx-2"]);
    let suspend = |suspend: bool| {
        let client = cluster.client.clone();
        async move {
            let patch = json!({"spec": {"suspend": suspend}});
            client
                .merge_patch::<Job>("ns", "idx", "", &patch)
                .await
                .unwrap();
        }
    };
    suspend(true).await;
    cluster
        .eventually("no pods", |cache| cache.pods.list("ns").is_empty())
        .await;
    suspend(false).await;
    cluster
        .eventually("pods again", |cache| cache.pods.list("ns").len() == 3)
        .await;
    let jobs = cluster.cache.jobs.clone();
    let resumed = cluster
        .until(&jobs, "ns", "idx", |job| {
            job.is_some_and(|job| job.status.as_ref().unwrap().ready == Some(3))
        })
        .await
        .unwrap();
    assert_eq!(resumed.status.as_ref().unwrap().failed, None);
    let mut failing = job("failing", "fails", 1, 1);
    failing.spec.as_mut().unwrap().backoff_limit = Some(0);
    cluster.client.create(&failing).await.unwrap();
    let failed = cluster
        .until(&jobs, "ns", "failing", |job| has(job, "Failed"))
        .await
        .unwrap();
    assert_eq!(failed.status.as_ref().unwrap().failed, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_goes_after_its_time() {
    let cluster = Cluster::new(&["n1"]).await;
    let mut made = job("short", "done", 1, 1);
    made.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(0);
    cluster.client.create(&made).await.unwrap();
    cluster
        .eventually("pod seen", |cache| !cache.pods.list("ns").is_empty())
        .await;
    cluster
        .eventually("all gone", |cache| {
            cache.jobs.list("ns").is_empty() && cache.pods.list("ns").is_empty()
        })
        .await;
}
