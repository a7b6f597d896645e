//! A client library that is not Go's, in a pod, as the pod's account: what programs do that operate others.

use waggle_tests::{IMAGE, PYTHON_CLIENT};

use crate::{lab, wait_for};

/// Prints what each call gave. A pod's shell is told what to do over its input, and says how it ended.
const OPERATOR: &str = r#"
    import sys
    from kubernetes import client, config, watch
    from kubernetes.client.rest import ApiException
    from kubernetes.stream import stream
    config.load_incluster_config()
    core = client.CoreV1Api()
    container = {'name': 'main', 'image': sys.argv[1], 'command': ['sh', '-c', 'echo started; exec sleep 3600']}
    core.create_namespaced_pod('default', {'metadata': {'name': 'worker', 'labels': {'app': 'worker'}},
        'spec': {'terminationGracePeriodSeconds': 0, 'containers': [container]}})
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_pod, 'default', label_selector='app=worker', timeout_seconds=60):
        if event['object'].status.phase == 'Running': watching.stop()
    print('log', core.read_namespaced_pod_log('worker', 'default').strip())
    def run(*command, **how):
        how = dict(dict(stdin=False, stdout=True, stderr=True, tty=False), **how)
        return stream(core.connect_get_namespaced_pod_exec, 'worker', 'default', command=list(command), **how)
    print('exec', run('echo', 'hello').strip())
    shell = run('sh', stdin=True, _preload_content=False)
    shell.write_stdin('echo from the shell; echo and its errors >&2; exit 3\n')
    shell.run_forever(timeout=30)
    print('shell', shell.read_stdout().strip(), '/', shell.read_stderr().strip(), '/', shell.returncode)
    patched = core.patch_namespaced_pod('worker', 'default', {'metadata': {'annotations': {'seen': 'yes'}}})
    print('patched', patched.metadata.annotations['seen'])
    try: core.list_namespaced_secret('default')
    except ApiException as error: print('refused', error.status, error.reason)
    core.delete_namespaced_pod('worker', 'default')
    try: core.read_namespaced_pod('worker', 'default')
    except ApiException as error: print('gone', error.status)
"#;

fn manifest() -> String {
    let image = PYTHON_CLIENT.image;
    format!(
        r#"apiVersion: v1
kind: ServiceAccount
metadata: {{name: operator}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: operator}}
rules:
- {{apiGroups: [""], resources: [pods], verbs: [create, get, list, watch, patch, delete]}}
- {{apiGroups: [""], resources: [pods/log, pods/exec], verbs: [get, create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: operator}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}}
subjects: [{{kind: ServiceAccount, name: operator}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: operator}}
data:
  operator.py: |{OPERATOR}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: operator}}
spec:
  backoffLimit: 0
  template:
    spec:
      serviceAccountName: operator
      restartPolicy: Never
      containers:
      - name: operator
        image: {image}
        command: [python3, -u, /code/operator.py, {IMAGE}]
        volumeMounts: [{{name: code, mountPath: /code}}]
      volumes: [{{name: code, configMap: {{name: operator}}}}]
"#
    )
}

#[test]
fn the_python_client_operates_pods_from_a_pod() {
    let lab = lab(2, &[&PYTHON_CLIENT], &[]);
    lab.apply(&manifest());
    lab.wait("the job has ended", || {
        let job = lab.json(&["job", "operator"]);
        let ended = &job["status"]["conditions"];
        ended
            .as_array()
            .is_some_and(|all| !all.is_empty())
            .then_some(())
            .ok_or_else(|| job["status"].to_string())
    });
    assert_eq!(
        lab.kubectl(&["logs", "job/operator"]).ok(),
        "log started\nexec hello\nshell from the shell / and its errors / 3\npatched yes\nrefused 403 Forbidden\n\
         gone 404\n"
    );
    wait_for(&lab, &["job", "operator"], "{.status.succeeded}", "1");
}
