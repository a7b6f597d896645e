//! Who is who: programs in pods with their tokens, people with kubectl, and a node that joins by a token.

use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use waggle_tests::{Cluster, IMAGE, Netns, Outcome, wait_until};

/// Ends the joined agent when the test does.
struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a_program_in_a_pod_speaks_to_the_api_as_its_account() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: lister}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: lister}}
rules: [{{apiGroups: [""], resources: [pods], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: lister}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: lister}}
subjects: [{{kind: ServiceAccount, name: lister, namespace: default}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: asker}}
spec:
  serviceAccountName: lister
  restartPolicy: Never
  containers:
  - name: asker
    image: {IMAGE}
    command:
    - sh
    - -c
    - |
      cd /var/run/secrets/kubernetes.io/serviceaccount
      ask() {{ curl -s -m 10 -o /dev/null -w '%{{http_code}}\n' --cacert ca.crt "$@"; }}
      ask -H "Authorization: Bearer $(cat token)" https://kubernetes.default.svc/api/v1/namespaces/default/pods
      ask -H "Authorization: Bearer $(cat token)" https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat namespace)/pods
      ask -H "Authorization: Bearer $(cat token)" https://kubernetes.default.svc/api/v1/namespaces/default/secrets
      ask https://kubernetes.default.svc/api/v1/namespaces/default/pods
      ask -H "Authorization: Bearer $(cat token)x" https://kubernetes.default.svc/api/v1/namespaces/default/pods
      ask -H "X-Remote-User: admin" -H "X-Remote-Group: system:masters" https://kubernetes.default.svc/api/v1/namespaces/default/pods
      ls -A
"#
    ));
    cluster.wait_for(&["pod", "asker"], "{.status.phase}", "Succeeded");
    let log = cluster.kubectl(&["logs", "asker"]).ok();
    let words: Vec<&str> = log
        .split_whitespace()
        .filter(|word| !word.starts_with(".."))
        .collect();
    assert_eq!(
        words,
        [
            "200",
            "200",
            "403",
            "401",
            "401",
            "401",
            "ca.crt",
            "namespace",
            "token"
        ]
    );

    // People, and tokens by hand.
    let token = cluster.kubectl(&["create", "token", "lister"]).ok();
    let mut whoami = cluster.kubectl_command("kubectl".as_ref());
    let url = cluster.screen["server"]
        .as_str()
        .unwrap_or("https://127.0.0.1:6443")
        .to_owned();
    whoami
        .env("KUBECONFIG", "/dev/null")
        .args(["--server", &url, "--insecure-skip-tls-verify"])
        .args(["--token", token.trim(), "auth", "whoami", "-o"])
        .arg("jsonpath={.status.userInfo.username}");
    assert_eq!(
        Outcome::of(&mut whoami).ok(),
        "system:serviceaccount:default:lister"
    );
    let as_account = ["--as", "system:serviceaccount:default:lister"];
    let can = |verb: &str, resource: &str| {
        let mut arguments = vec!["auth", "can-i", verb, resource];
        arguments.extend(as_account);
        cluster.kubectl(&arguments).stdout.trim().to_owned()
    };
    assert_eq!(
        (can("list", "pods"), can("get", "secrets")),
        ("yes".into(), "no".into())
    );
    let mut list = vec!["auth", "can-i", "--list"];
    list.extend(as_account);
    let list = cluster.kubectl(&list).ok();
    assert!(
        list.contains("selfsubjectreviews.authentication.k8s.io"),
        "{list}"
    );

    // The old kind of token, in a Secret.
    cluster.apply(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: old\n  \
         annotations: {kubernetes.io/service-account.name: lister}\n",
    );
    cluster.wait_for(&["secret", "old"], "{.data.namespace}", "ZGVmYXVsdA==");
    cluster
        .kubectl(&["delete", "serviceaccount", "lister"])
        .ok();
    wait_until(
        "the Secret to go with its account",
        Duration::from_secs(20),
        || {
            let left = cluster.kubectl(&["get", "secret", "old"]);
            (left.code != Some(0)).then_some(())
        },
    );
}

#[test]
fn a_node_joins_by_a_token_and_people_get_certificates() {
    let cluster = Cluster::start();
    let waggle = |arguments: &[&str]| {
        let mut command = cluster.netns.command(waggle_tests::waggle());
        command
            .args(arguments)
            .env("KUBECONFIG", cluster.kubeconfig());
        Outcome::of(&mut command)
    };
    let join = waggle(&["token", "create", "--ttl", "10m"]).ok();
    let words: Vec<&str> = join.split_whitespace().collect();
    assert_eq!(words[..3], ["waggle", "agent", "--join"], "{join}");
    assert_eq!(words[3], "https://192.0.2.1:6443");
    let token = words[5];
    assert!(waggle(&["token", "list"]).ok().contains(&token[..6]));

    let home = cluster.scratch().join("second");
    let agent = |hash: &str| {
        let mut command = cluster.netns.outside_command(waggle_tests::waggle());
        command
            .args([
                "agent",
                "--join",
                words[3],
                "--token",
                token,
                "--ca-hash",
                hash,
            ])
            .args([
                "--node-name",
                "node-2",
                "--uplink",
                "world",
                "--remove-on-exit",
            ])
            .args(["--node-address", Netns::OUTSIDE])
            .arg("--identity")
            .arg(home.join("identity"))
            .arg("--data-dir")
            .arg(home.join("data"))
            .arg("--run-dir")
            .arg(home.join("run"))
            .args(["--cgroup-parent", &format!("/{}-2", cluster.netns.name())])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refused = Outcome::of(&mut agent(&wrong));
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("is not the cluster with the CA"),
        "{}",
        refused.stderr
    );

    let log = std::fs::File::create(cluster.scratch().join("second.log")).unwrap();
    let joined = Joined(agent(words[7]).stderr(log).spawn().unwrap());
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
    cluster.wait_for(&["node", "node-2"], ready, "True");
    let conditions = cluster
        .kubectl(&[
            "get",
            "csr",
            "-o",
            "jsonpath={.items[*].status.conditions[*].type}",
        ])
        .ok();
    assert_eq!(conditions, "Approved");
    drop(joined);
    waggle(&["token", "delete", token]).ok();
    assert!(!waggle(&["token", "list"]).ok().contains(&token[..6]));

    // A person asks for a certificate, an administrator approves.
    let key = cluster.scratch().join("ann.key");
    let mut openssl = std::process::Command::new("openssl");
    openssl
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-subj", "/O=people/CN=ann", "-keyout"])
        .arg(&key);
    let request = Outcome::of(&mut openssl).ok();
    let encoded = base64(&request);
    cluster.apply(&format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: ann}}\nspec:\n  \
         request: {encoded}\n  signerName: kubernetes.io/kube-apiserver-client\n  expirationSeconds: 3600\n  \
         usages: [client auth]\n"
    ));
    cluster.kubectl(&["certificate", "approve", "ann"]).ok();
    wait_until("the certificate", Duration::from_secs(20), || {
        let path = "jsonpath={.status.certificate}";
        let found = cluster.kubectl(&["get", "csr", "ann", "-o", path]).ok();
        (!found.is_empty()).then_some(())
    });
    let shown = cluster.kubectl(&["get", "csr", "ann", "--no-headers"]).ok();
    assert!(shown.contains("Approved,Issued"), "{shown}");
    assert!(shown.contains("kubernetes-admin"), "{shown}");
    assert!(shown.contains("60m"), "{shown}");
}

fn base64(text: &str) -> String {
    let mut command = std::process::Command::new("base64");
    command
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    use std::io::Write as _;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
