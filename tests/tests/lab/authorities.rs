//! Another CA takes the place of the cluster's while it serves: three members, a node, and what they trust.

use std::path::{Path, PathBuf};
use std::process::Command;

use waggle_tests::{IMAGE, Lab, Outcome, waggle};

const CONTROLLERS: [&str; 3] = ["controller-1", "controller-2", "controller-3"];

fn is_signed_by(certificate: &Path, ca: &Path) -> bool {
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-CAfile"]).arg(ca).arg(certificate);
    Outcome::of(&mut openssl).code == Some(0)
}

/// Each member serves, and sees all of them.
fn serves(lab: &Lab, controller: &str) -> Result<(), String> {
    let name = waggle().display().to_string();
    let members = lab.waggle(&["exec", controller, "--", &name, "cluster", "members"]);
    let there = members.stdout.lines().skip(1).filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.contains(&"ok") && (words.contains(&"leader") || words.contains(&"follower"))
    });
    match there.count() {
        3 => Ok(()),
        _ => Err(format!("{members:?}")),
    }
}

#[test]
fn another_ca_takes_over_step_by_step_and_nobody_is_cut_off() {
    let image = tempfile::tempdir().unwrap();
    let archive = waggle_tests::busybox_archive(image.path());
    let archive = format!("--image={}", archive.display());
    let lab = Lab::up(&["--nodes=1", "--controllers=3", "--families=v4", &archive]);
    let data = |member: &str| lab.scratch().join("d/t").join(member);
    let pki = |member: &str, name: &str| data(member).join("pki").join(name);
    let bundle = |member: &str| std::fs::read_to_string(pki(member, "ca.crt")).unwrap();
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  \
         - {{name: c, image: {IMAGE}, command: [sh, -c, 'echo hello; sleep 100000']}}\n"
    ));
    lab.settle();
    let old: PathBuf = lab.scratch().join("old.crt");
    std::fs::write(&old, bundle("controller-1")).unwrap();
    let old_client = lab.scratch().join("old.kubeconfig");
    std::fs::copy(data("controller-1").join("admin.kubeconfig"), &old_client).unwrap();
    let certificate = data("node-1").join("identity/node.crt");
    assert!(is_signed_by(&certificate, &old));

    for step in ["add", "switch", "drop"] {
        for controller in CONTROLLERS {
            lab.waggle(&["kill", controller]).ok();
            if step == "add" && controller != "controller-1" {
                for name in ["ca-next.crt", "ca-next.key"] {
                    std::fs::copy(pki("controller-1", name), pki(controller, name)).unwrap();
                }
            }
            let mut rotate = Command::new(waggle());
            rotate.args(["controller", "--rotate-ca", step, "--data-dir"]);
            Outcome::of(rotate.arg(data(controller))).ok();
            lab.waggle(&["start", controller]).ok();
            // The next one is not taken away before this one is back.
            lab.wait("the member to be back", || serves(&lab, controller));
            let logs = ["exec", controller, "--", "kubectl", "logs", "p"];
            lab.wait("the node to be reached by that member", || {
                let logs = lab.waggle(&logs);
                (logs.stdout == "hello\n")
                    .then_some(())
                    .ok_or(format!("{step}: {logs:?}"))
            });
        }
        if step == "switch" {
            lab.wait("the node to have a certificate of the new CA", || {
                (!is_signed_by(&certificate, &old))
                    .then_some(())
                    .ok_or_else(|| lab.logs())
            });
        }
    }

    // The old one opens nothing any more, and the new one everything.
    let new = pki("controller-2", "ca.crt");
    assert!(is_signed_by(&certificate, &new));
    let trusted = std::fs::read_to_string(data("node-1").join("identity/ca.crt")).unwrap();
    assert_eq!(trusted.trim(), bundle("controller-3").trim());
    assert_eq!(trusted.matches("BEGIN CERTIFICATE").count(), 1);
    let mut stranger = vec!["exec", "outside", "--", "kubectl", "get", "nodes"];
    let old_client = format!("--kubeconfig={}", old_client.display());
    stranger.extend([old_client.as_str(), "--insecure-skip-tls-verify=true"]);
    let refused = lab.waggle(&stranger).fails();
    assert!(!refused.contains("node-1"), "{refused}");
    let nodes = lab.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert!(
        nodes.contains("node-1 ") && nodes.contains(" Ready "),
        "{nodes}"
    );
}
