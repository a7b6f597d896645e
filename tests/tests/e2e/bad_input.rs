//! What is refused says why, names the field, and leaves nothing behind.

use std::process::Stdio;

use waggle_tests::{Cluster, Options, Outcome};

#[test]
fn manifests_that_are_wrong_are_refused_with_the_field() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let refused = |manifest: &str| cluster.apply_outcome(manifest).fails();

    let text =
        refused("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 0}]}\n");
    assert!(
        text.contains(
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"
        ),
        "{text}"
    );
    let text = refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: 1_bad}\nspec: {ports: [{port: 80}]}\n",
    );
    assert!(
        text.contains("metadata.name: Invalid value: \"1_bad\""),
        "{text}"
    );
    let text = refused("apiVersion: v1\nkind: Gadget\nmetadata: {name: g}\n");
    assert!(text.contains("no matches for kind \"Gadget\""), "{text}");
    let text = refused("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndatum: {a: b}\n");
    assert!(
        text.contains("unknown field") && text.contains("datum"),
        "{text}"
    );
    let text = refused("kind: ConfigMap\n\tapiVersion: v1\n");
    assert!(text.contains("error"), "{text}");
    let text = refused("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n");
    assert!(text.contains("spec.containers: Required value"), "{text}");

    for kind in ["services", "pods", "configmaps"] {
        let names = cluster.kubectl(&["get", kind, "-o", "name"]).ok();
        for name in ["/s", "/1_bad", "/c", "/p"] {
            assert!(
                !names.lines().any(|line| line.ends_with(name)),
                "{kind}: {names}"
            );
        }
    }
}

#[test]
fn a_second_dev_on_the_same_data_names_the_first() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let text = Outcome::of(cluster.dev_command().stdout(Stdio::null())).fails();
    assert!(
        text.contains("already runs on") && text.contains(&cluster.pid().to_string()),
        "{text}"
    );
    cluster.kubectl(&["get", "nodes"]).ok();
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let other = tempfile::tempdir().unwrap();
    let mut command = cluster.netns.command(waggle_tests::waggle());
    command
        .arg("dev")
        .arg("--data-dir")
        .arg(other.path().join("data"));
    command.arg("--run-dir").arg(other.path().join("run"));
    let text = Outcome::of(&mut command).fails();
    assert!(
        text.contains(":6443") && text.to_lowercase().contains("in use"),
        "{text}"
    );
}

#[test]
fn nobody_gets_in_without_a_certificate() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let get = |path: &str| {
        Outcome::of(cluster.netns.command("curl").args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("https://127.0.0.1:6443{path}"),
        ]))
        .ok()
    };
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(open), "200", "{open}");
    }
    for closed in [
        "/api",
        "/api/v1/pods",
        "/apis",
        "/metrics",
        "/openapi/v2",
        "/x",
    ] {
        assert_eq!(get(closed), "401", "{closed}");
    }
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none_that_was_acknowledged() {
    let mut cluster = Cluster::with(Options {
        without_image: true,
        disk_mib: Some(64),
        ..Options::default()
    });
    cluster.kubectl(&["create", "configmap", "before"]).ok();
    // Whatever is left of the disk.
    let filler = cluster.data_dir().join("filler");
    let mut fill = std::process::Command::new("dd");
    fill.args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()));
    assert!(Outcome::of(&mut fill).fails().contains("No space left"));

    let payload = cluster.scratch().join("payload");
    std::fs::write(&payload, "x".repeat(200_000)).unwrap();
    let from = format!("--from-file={}", payload.display());
    let mut acknowledged = vec!["before".to_owned()];
    let mut refused = None;
    for index in 0..200 {
        let name = format!("big-{index}");
        let outcome =
            cluster.kubectl(&["create", "configmap", &name, &from, "--request-timeout=20s"]);
        match outcome.code {
            Some(0) => acknowledged.push(name),
            _ => {
                refused = Some(outcome.stderr);
                break;
            }
        }
    }
    let refused = refused.expect("a write is refused");
    let said = format!("{refused}{}", cluster.log()).to_lowercase();
    assert!(
        said.contains("no space left") || said.contains("disk is full"),
        "{said}"
    );

    std::fs::remove_file(&filler).unwrap();
    if !cluster.has_ended() {
        cluster.crash();
    }
    cluster.boot();
    let kept = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    for name in acknowledged {
        assert!(
            kept.lines().any(|line| line == format!("configmap/{name}")),
            "{name} in {kept}"
        );
    }
    cluster.kubectl(&["create", "configmap", "after"]).ok();
}

#[test]
fn a_missing_capability_is_named() {
    let cluster = Cluster::with(Options {
        without_image: true,
        ..Options::default()
    });
    let other = tempfile::tempdir().unwrap();
    for capability in ["bpf", "net_admin", "sys_admin"] {
        let mut command = cluster.netns.command("setpriv");
        command
            .arg(format!("--bounding-set=-{capability}"))
            .arg(format!("--inh-caps=-{capability}"));
        command
            .arg(waggle_tests::waggle())
            .args(["dev", "--listen", "127.0.0.1:7443"]);
        command.arg("--data-dir").arg(other.path().join("data"));
        command.arg("--run-dir").arg(other.path().join("run"));
        let text = Outcome::of(&mut command).fails();
        let name = format!("CAP_{}", capability.to_uppercase());
        assert!(
            text.contains("missing capability") && text.contains(&name),
            "{name}: {text}"
        );
    }
}
