//! Pods from their manifests to their ends: with a machine that is not there and a clock that does not wait
//! (`life`, `hooks`, `changes`, `anew`, `mirrors`,
//! `killed`, `panicked`), and with real containers (`real`).
#![allow(clippy::unwrap_used)]

mod anew;
mod changes;
mod hooks;
mod killed;
mod life;
mod mirrors;
mod panicked;
mod real;
mod refused;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::report::recorder::Recorder;
use super::*;

/// Settings for a node whose files are below `dir`.
fn settings(dir: &std::path::Path) -> Settings {
    Settings {
        data_dir: dir.join("data"),
        run_dir: dir.join("run"),
        cgroup_parent: format!("waggle-test-{}", uuid::Uuid::new_v4().simple()),
        node_name: "node1".to_owned(),
        node_hostname: "node1".to_owned(),
        node_addresses: Arc::new(arc_swap::ArcSwap::from_pointee(vec![
            "192.0.2.2".parse().unwrap(),
        ])),
        cluster_domain: "cluster.local".to_owned(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        host_resolver: Resolver::default(),
        host_hosts: String::new(),
        memory_bytes: 8 << 30,
        allocatable_cpu_millis: 2_000,
        allocatable_memory_bytes: 7 << 30,
        allocatable_storage_bytes: 90 << 30,
        max_pods: 110,
        allowed_sysctls: Vec::new(),
        app_armor: false,
        pids_limit: None,
        log_limits: LogLimits {
            max_bytes: 10 << 20,
            max_files: 5,
        },
        handlers: [(DEFAULT_HANDLER.to_owned(), Default::default())].into(),
    }
}

fn context<M>(
    machine: Arc<M>,
    recorder: &Arc<Recorder>,
    objects: &Arc<Objects>,
    settings: Settings,
) -> Arc<Context<M>> {
    Arc::new(Context {
        machine,
        objects: Arc::clone(objects),
        reporter: Arc::clone(recorder) as Arc<dyn Reporter>,
        settings,
        clock: Clock::new(),
        metrics: PodMetrics::default(),
        pressure: std::sync::Mutex::default(),
        shutting_down: std::sync::atomic::AtomicBool::default(),
        allocated: std::sync::Mutex::default(),
        host_ports: std::sync::Mutex::default(),
        user_ids: UserIds::default(),
        preparing: Turns::of_machine(),
        starting: Turns::of_machine(),
    })
}

/// A pod `p` with uid `uid` and this specification.
fn pod(uid: &str, spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": uid},
        "spec": spec,
    }))
    .unwrap()
}

/// The same pod, as its deletion was asked for.
fn deleted(pod: &Pod, grace_seconds: i64) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(status::time(jiff::Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
    pod
}
