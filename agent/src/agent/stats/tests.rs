//! What a node says of its pods, from facts that are given.

#![allow(clippy::unwrap_used)]
use super::*;

fn measured() -> Measured {
    let used = |cpu_nanos: u64| Detail {
        cpu_nanos,
        memory_bytes: 300,
        working_set_bytes: 200,
        memory_limit_bytes: Some(1_000),
        pids: 2,
        ..Detail::default()
    };
    Measured {
        node: NodeUse {
            name: "node-1".to_owned(),
            cpus: 2,
            used: used(9_500_000_000),
            cpu_rate: Some(7),
            machine: Usage {
                disk_bytes: 100,
                disk_available_bytes: 40,
                pids: 5,
                ..Usage::default()
            },
            ..NodeUse::default()
        },
        pods: vec![PodUse {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            used: used(2_000_000_000),
            network: Some(Counters {
                received_bytes: 11,
                sent_bytes: 12,
                ..Counters::default()
            }),
            containers: vec![ContainerUse {
                name: "main".to_owned(),
                image: "odd\"image".to_owned(),
                id: "u-1_main_0".to_owned(),
                since: Some(Timestamp::from_second(1_000).unwrap()),
                used: used(1_500_000_000),
                cpu_rate: Some(250_000_000),
                ..ContainerUse::default()
            }],
            ..PodUse::default()
        }],
    }
}

#[test]
fn a_summary_has_the_node_its_pods_and_their_containers() {
    let summary = summary(&measured());
    for (path, expected) in [
        ("/node/nodeName", serde_json::json!("node-1")),
        ("/node/cpu/usageNanoCores", serde_json::json!(7)),
        ("/node/fs/usedBytes", serde_json::json!(60)),
        ("/node/rlimit/curproc", serde_json::json!(5)),
        ("/pods/0/podRef/uid", serde_json::json!("u-1")),
        ("/pods/0/cpu/usageNanoCores", serde_json::json!(250_000_000)),
        (
            "/pods/0/network/interfaces/0/rxBytes",
            serde_json::json!(11),
        ),
        ("/pods/0/network/txBytes", serde_json::json!(12)),
        ("/pods/0/memory/availableBytes", serde_json::json!(800)),
        ("/pods/0/containers/0/name", serde_json::json!("main")),
        (
            "/pods/0/containers/0/startTime",
            serde_json::json!("1970-01-01T00:16:40Z"),
        ),
        (
            "/pods/0/containers/0/memory/workingSetBytes",
            serde_json::json!(200),
        ),
        ("/pods/0/process_stats/process_count", serde_json::json!(2)),
    ] {
        assert_eq!(
            summary.pointer(path),
            Some(&expected),
            "{path} of {summary}"
        );
    }
}

#[test]
fn metrics_bear_the_names_and_labels_that_dashboards_know() {
    let measured = measured();
    let resource = resource(&measured);
    for line in [
        "# TYPE container_cpu_usage_seconds_total counter",
        "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"web\"} 1.5",
        "container_start_time_seconds{container=\"main\",namespace=\"default\",pod=\"web\"} 1000",
        "node_cpu_usage_seconds_total 9.5",
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 200",
        "resource_scrape_error 0",
    ] {
        assert!(resource.lines().any(|it| it == line), "{line}: {resource}");
    }
    let cadvisor = cadvisor(&measured);
    for line in [
        "container_memory_usage_bytes{container=\"main\",id=\"u-1_main_0\",image=\"odd\\\"image\",\
         namespace=\"default\",pod=\"web\"} 300",
        "container_cpu_usage_seconds_total{container=\"\",id=\"u-1\",image=\"\",namespace=\"default\",pod=\"web\"} 2",
        "container_network_receive_bytes_total{interface=\"eth0\",namespace=\"default\",pod=\"web\"} 11",
        "machine_cpu_cores 2",
    ] {
        assert!(cadvisor.lines().any(|it| it == line), "{line}: {cadvisor}");
    }
}

#[test]
fn rates_need_two_looks_some_time_apart() {
    let baseline = Baseline::default();
    let then = Instant::now();
    let later = then + Duration::from_secs(4);
    assert_eq!(baseline.rate("a", later, 1_000), None);
    baseline.note(then, [("a".to_owned(), 1_000)].into());
    assert_eq!(baseline.rate("a", later, 2_000_001_000), Some(500_000_000));
    assert_eq!(baseline.rate("a", then, 2_000), None);
    assert_eq!(baseline.rate("b", later, 2_000), None);
    // Begun anew under the same name.
    assert_eq!(baseline.rate("a", later, 10), None);
}
