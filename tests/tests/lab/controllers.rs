//! A lab of three controllers: any of them may die, and whichever is asked reaches every node.

use waggle_tests::{IMAGE, Lab, Outcome};

/// A client of one of the controllers and no other.
fn ask(lab: &Lab, controller: &str, arguments: &[&str]) -> Outcome {
    let kubeconfig = lab
        .scratch()
        .join(format!("d/t/{controller}/admin.kubeconfig"));
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let mut all = vec!["exec", controller, "--", "kubectl", &kubeconfig];
    all.extend(arguments);
    lab.waggle(&all)
}

#[test]
fn any_controller_reaches_every_node_and_any_may_die() {
    let image = tempfile::tempdir().unwrap();
    let archive = waggle_tests::busybox_archive(image.path());
    let archive = format!("--image={}", archive.display());
    let mut lab = Lab::up(&["--nodes=2", "--controllers=3", "--families=v4", &archive]);
    for node in ["node-1", "node-2"] {
        lab.apply(&format!(
            "apiVersion: v1\n\
             kind: Pod\n\
             metadata: {{name: on-{node}}}\n\
             spec:\n\
             \x20 nodeName: {node}\n\
             \x20 containers:\n\
             \x20 - {{name: c, image: {IMAGE}, command: [sh, -c, 'echo hello from {node}; sleep 100000']}}\n"
        ));
    }
    lab.settle();
    let controllers = ["controller-1", "controller-2", "controller-3"];
    let everywhere = |lab: &Lab, controllers: &[&str]| {
        for controller in controllers {
            for node in ["node-1", "node-2"] {
                let pod = format!("on-{node}");
                let logs = ask(lab, controller, &["logs", &pod]).ok();
                assert_eq!(logs, format!("hello from {node}\n"), "{controller}");
                let words = ask(lab, controller, &["exec", &pod, "--", "echo", "here"]).ok();
                assert_eq!(words, "here\n", "{controller} {node}");
            }
        }
    };
    everywhere(&lab, &controllers);
    for controller in controllers {
        lab.wait("both nodes to be measured", || {
            let top = ask(&lab, controller, &["top", "nodes", "--no-headers"]);
            match top
                .stdout
                .lines()
                .filter(|line| !line.contains("unknown"))
                .count()
            {
                2 => Ok(()),
                _ => Err(format!("{top:?}")),
            }
        });
    }
    // The first is nothing special, not even for the clients outside.
    lab.waggle(&["kill", "controller-1"]).ok();
    lab.wait("the others to take writes", || {
        let outcome = lab.kubectl(&["create", "configmap", "written", "--request-timeout=5s"]);
        let there = outcome.stderr.contains("already exists");
        (outcome.code == Some(0) || there)
            .then_some(())
            .ok_or(outcome.stderr)
    });
    lab.wait("the nodes to be with the others", || {
        for controller in &controllers[1..] {
            for node in ["node-1", "node-2"] {
                let outcome = ask(&lab, controller, &["logs", &format!("on-{node}")]);
                if outcome.code != Some(0) {
                    return Err(outcome.stderr);
                }
            }
        }
        Ok(())
    });
    everywhere(&lab, &controllers[1..]);
    // A client on a node is given one of those that are there.
    let nodes = [
        "exec", "node-1", "--", "kubectl", "get", "nodes", "-o", "name",
    ];
    assert_eq!(lab.waggle(&nodes).ok(), "node/node-1\nnode/node-2\n");
    lab.waggle(&["start", "controller-1"]).ok();
    everywhere(&lab, &controllers);
    lab.refresh();
    assert_eq!(lab.status["answers"], true);
}
