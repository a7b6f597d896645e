//! Images from a registry: what is wrong is said, and a pod recovers when it is put right.

use std::process::{Child, Command, Stdio};

use waggle_tests::{Cluster, Options, Outcome};

/// Debian's docker-registry on the node's loopback.
struct Registry {
    child: Child,
}

impl Registry {
    fn start(cluster: &Cluster) -> Self {
        let storage = cluster.scratch().join("registry");
        std::fs::create_dir_all(&storage).unwrap();
        let config = cluster.scratch().join("registry.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
                storage.display()
            ),
        )
        .unwrap();
        let child = cluster
            .netns
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        waggle_tests::wait_until("the registry", std::time::Duration::from_secs(20), || {
            let outcome = Outcome::of(
                cluster
                    .netns
                    .command("curl")
                    .args(["-s", "http://127.0.0.1:5000/v2/"]),
            );
            (outcome.code == Some(0)).then_some(())
        });
        Self { child }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn push(cluster: &Cluster, name: &str) {
    let archive = waggle_tests::busybox_archive(cluster.scratch());
    let mut copy: Command = cluster.netns.command("skopeo");
    copy.args(["--insecure-policy", "copy", "--dest-tls-verify=false"]);
    copy.arg(format!("docker-archive:{}", archive.display()));
    copy.arg(format!("docker://127.0.0.1:5000/{name}"));
    Outcome::of(&mut copy).ok();
}

#[test]
fn a_pod_says_that_its_image_is_missing_and_starts_when_it_appears() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let _registry = Registry::start(&cluster);
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec:\n  containers: [{name: main, image: '127.0.0.1:5000/late:1', command: [sleep, '1000']}]\n",
    );
    let reason = "{.status.containerStatuses[0].state.waiting.reason}";
    waggle_tests::wait_until("a reason", std::time::Duration::from_secs(30), || {
        let reason = cluster
            .kubectl(&["get", "pod", "late", "-o", &format!("jsonpath={reason}")])
            .ok();
        ["ErrImagePull", "ImagePullBackOff"]
            .contains(&reason.as_str())
            .then_some(())
    });
    let events = cluster.kubectl(&["get", "events"]).ok();
    assert!(
        events.contains("Failed to pull image \"127.0.0.1:5000/late:1\""),
        "{events}"
    );
    push(&cluster, "late:1");
    cluster.wait_for(&["pod", "late"], "{.status.phase}", "Running");
    let id = cluster
        .kubectl(&[
            "get",
            "pod",
            "late",
            "-o",
            "jsonpath={.status.containerStatuses[0].imageID}",
        ])
        .ok();
    assert!(id.contains("@sha256:"), "{id}");
}
