//! `kubectl`, Debian's 1.20 and a current one, with validation left on: every verb of daily work.

use waggle_tests::{Cluster, IMAGE, Outcome, old_kubectl};

fn deployment(name: &str, replicas: u32) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {IMAGE}
        command: ["sh", "-c", "trap 'exit 0' TERM; echo started; while true; do sleep 0.1; done"]
"#
    )
}

/// Runs the same steps with either client.
fn daily_work(run: impl Fn(&[&str]) -> Outcome, cluster: &Cluster, name: &str) {
    let file = cluster.scratch().join(format!("{name}.yaml"));
    std::fs::write(&file, deployment(name, 2)).unwrap();
    let file = file.to_string_lossy().into_owned();

    assert!(run(&["version"]).ok().contains("v1.36"));
    let resources = run(&["api-resources"]).ok();
    for kind in [
        "deployments",
        "endpointslices",
        "leases",
        "pods",
        "serviceaccounts",
    ] {
        assert!(resources.contains(kind), "{kind} in {resources}");
    }
    assert!(run(&["cluster-info"]).ok().contains("is running at"));
    assert!(
        run(&["explain", "deployment.spec.replicas"])
            .ok()
            .contains("Number of desired pods")
    );
    assert!(
        run(&["explain", "pods", "--recursive"])
            .ok()
            .contains("terminationGracePeriodSeconds")
    );
    assert_eq!(run(&["auth", "can-i", "create", "pods"]).ok().trim(), "yes");

    assert!(run(&["apply", "-f", &file]).ok().contains("created"));
    assert!(run(&["apply", "-f", &file]).ok().contains("unchanged"));
    run(&["rollout", "status", "deployment", name, "--timeout=60s"]).ok();
    let wide = run(&["get", "deployments", name, "-o", "wide"]).ok();
    for column in [
        "NAME",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "AGE",
        "CONTAINERS",
        "IMAGES",
        "SELECTOR",
        "2/2",
    ] {
        assert!(wide.contains(column), "{column} in {wide}");
    }
    let label = format!("app={name}");
    let pods = run(&[
        "get",
        "pods",
        "-l",
        &label,
        "-o",
        "jsonpath={.items[*].status.phase}",
    ])
    .ok();
    assert_eq!(pods, "Running Running");
    let rows = run(&["get", "pods", "-l", &label]).ok();
    assert!(
        rows.lines()
            .next()
            .unwrap()
            .split_whitespace()
            .eq(["NAME", "READY", "STATUS", "RESTARTS", "AGE"]),
        "{rows}"
    );
    assert!(rows.contains("1/1") && rows.contains("Running"), "{rows}");
    assert!(
        run(&[
            "get",
            "pods",
            "-A",
            "--field-selector",
            "status.phase=Running"
        ])
        .ok()
        .contains(name)
    );
    assert!(
        run(&["get", "deployment", name, "-o", "yaml"])
            .ok()
            .contains("kind: Deployment")
    );
    let described = run(&["describe", "deployment", name]).ok();
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    let pod = run(&[
        "get",
        "pods",
        "-l",
        &label,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])
    .ok();
    let described = run(&["describe", "pod", &pod]).ok();
    for part in ["Scheduled", "Started", "runc://", "QoS Class"] {
        assert!(described.contains(part), "{part} in {described}");
    }
    assert_eq!(run(&["logs", &pod]).ok(), "started\n");
    assert_eq!(run(&["logs", &pod, "--tail=1"]).ok(), "started\n");

    run(&["label", "deployment", name, "tier=web"]).ok();
    run(&["annotate", "deployment", name, "note=hello"]).ok();
    run(&["patch", "deployment", name, "-p", r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"A","value":"1"}]}]}}}}"#]).ok();
    run(&[
        "patch",
        "deployment",
        name,
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/metadata/labels/tier","value":"db"}]"#,
    ])
    .ok();
    run(&[
        "patch",
        "deployment",
        name,
        "--type=merge",
        "-p",
        r#"{"metadata":{"annotations":{"note":null}}}"#,
    ])
    .ok();
    run(&["rollout", "status", "deployment", name, "--timeout=60s"]).ok();
    let state = run(&["get", "deployment", name, "-o", "jsonpath={.metadata.labels.tier} {.metadata.annotations.note} {.spec.template.spec.containers[0].env[0].value} {.spec.template.spec.containers[0].image}"]).ok();
    assert_eq!(state, format!("db  1 {IMAGE}"));
    let history = run(&["rollout", "history", "deployment", name]).ok();
    assert!(
        history.contains("1 ") && history.contains("2 "),
        "{history}"
    );
    run(&["rollout", "undo", "deployment", name]).ok();
    run(&["rollout", "status", "deployment", name, "--timeout=60s"]).ok();
    assert_eq!(
        run(&[
            "get",
            "deployment",
            name,
            "-o",
            "jsonpath={.spec.template.spec.containers[0].env}"
        ])
        .ok(),
        ""
    );
    run(&["scale", "deployment", name, "--replicas=1"]).ok();
    cluster.wait_for(&["deployment", name], "{.status.replicas}", "1");

    let configmap = format!("{name}-settings");
    run(&["create", "configmap", &configmap, "--from-literal=a=1"]).ok();
    let refused = run(&["create", "configmap", &configmap, "--from-literal=a=1"]).fails();
    assert!(refused.contains("already exists"), "{refused}");
    run(&["delete", "configmap", &configmap]).ok();
    run(&["delete", "deployment", "-l", "tier=db", "--wait"]).ok();
    let gone = run(&["get", "deployment", name]).fails();
    assert!(gone.contains("NotFound"), "{gone}");
    cluster.wait_for(&["pods", "-l", &label], "{.items}", "[]");
}

#[test]
fn a_current_kubectl_does_its_daily_work() {
    let cluster = Cluster::start();
    daily_work(|arguments| cluster.kubectl(arguments), &cluster, "current");
}

#[test]
fn kubectl_1_20_does_its_daily_work() {
    let cluster = Cluster::start();
    daily_work(|arguments| cluster.old_kubectl(arguments), &cluster, "old");
}

#[test]
fn server_side_apply_knows_who_owns_a_field() {
    let cluster = Cluster::start();
    let file = cluster.scratch().join("owned.yaml");
    std::fs::write(&file, deployment("owned", 1)).unwrap();
    let file = file.to_string_lossy().into_owned();
    cluster
        .kubectl(&["apply", "--server-side", "--field-manager=one", "-f", &file])
        .ok();
    std::fs::write(&file, deployment("owned", 3)).unwrap();
    let conflict = cluster
        .kubectl(&["apply", "--server-side", "--field-manager=two", "-f", &file])
        .fails();
    assert!(
        conflict.contains("conflict with \"one\"") && conflict.contains(".spec.replicas"),
        "{conflict}"
    );
    cluster
        .kubectl(&[
            "apply",
            "--server-side",
            "--field-manager=two",
            "--force-conflicts",
            "-f",
            &file,
        ])
        .ok();
    cluster.wait_for(&["deployment", "owned"], "{.spec.replicas}", "3");
}

#[test]
fn edit_changes_what_the_editor_wrote() {
    let cluster = Cluster::start();
    cluster
        .kubectl(&[
            "create",
            "configmap",
            "edited",
            "--from-literal=colour=blue",
        ])
        .ok();
    for program in ["kubectl".into(), old_kubectl()] {
        let mut command = cluster.kubectl_command(&program);
        command.env("KUBE_EDITOR", "sed -i s/colour:.*/colour:\\ green/");
        Outcome::of(command.args(["edit", "configmap", "edited"])).ok();
        let colour = cluster
            .kubectl(&[
                "get",
                "configmap",
                "edited",
                "-o",
                "jsonpath={.data.colour}",
            ])
            .ok();
        assert_eq!(colour, "green");
        cluster
            .kubectl(&[
                "patch",
                "configmap",
                "edited",
                "-p",
                r#"{"data":{"colour":"blue"}}"#,
            ])
            .ok();
    }
}

#[test]
fn a_watch_prints_changes_as_they_happen() {
    use std::io::{BufRead as _, BufReader};
    let cluster = Cluster::start();
    let mut command = cluster.kubectl_command("kubectl".as_ref());
    command.args(["get", "configmaps", "-w", "-o", "name", "-l", "watched=yes"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for name in ["first", "second"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{watched: 'yes'}}}}\n"
        ));
        assert_eq!(lines.next().unwrap().unwrap(), format!("configmap/{name}"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
