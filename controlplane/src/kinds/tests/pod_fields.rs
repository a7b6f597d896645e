//! Rules for fields of pods, each with the sentence of Kubernetes and the path of the field.

use serde_json::{Value, json};

use super::{kind, problems};

/// A pod with these fields besides one container with those.
fn pod(spec: Value, container: Value) -> Value {
    let mut whole = json!({"containers": [{"name": "a", "image": "x"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    for (key, value) in container.as_object().unwrap() {
        whole["containers"][0][key] = value.clone();
    }
    json!({"metadata": {"name": "web"}, "spec": whole})
}

#[track_caller]
fn spec(spec: Value, expected: &[&str]) {
    assert_eq!(problems(kind("Pod"), pod(spec, json!({}))), expected);
}

#[track_caller]
fn container(container: Value, expected: &[&str]) {
    assert_eq!(problems(kind("Pod"), pod(json!({}), container)), expected);
}

#[test]
fn users_of_a_pod_and_of_its_node() {
    spec(
        json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "hostIPC": true}),
        &[
            "spec.hostNetwork: Forbidden: when `hostUsers` is false",
            "spec.HostPID: Forbidden: when `hostUsers` is false",
            "spec.HostIPC: Forbidden: when `hostUsers` is false",
        ],
    );
    let unmasked = json!({"securityContext": {"procMount": "Unmasked"}});
    container(
        unmasked.clone(),
        &[
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be \
             false to use `Unmasked`",
        ],
    );
    let own = pod(json!({"hostUsers": false}), unmasked);
    assert_eq!(problems(kind("Pod"), own), [""; 0]);
    spec(
        json!({"securityContext": {"supplementalGroups": [1, -1], "fsGroupChangePolicy": "Never",
            "supplementalGroupsPolicy": "Lax"}}),
        &[
            "spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, \
             inclusive",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \
             \"Always\", \"OnRootMismatch\"",
            "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"Lax\": supported values: \
             \"Merge\", \"Strict\"",
        ],
    );
}

#[test]
fn profiles() {
    spec(
        json!({"securityContext": {
            "seccompProfile": {"type": "Localhost", "localhostProfile": "../x"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": " x"},
        }}),
        &[
            "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"../x\": must not contain '..'",
            "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded \
             with whitespace",
        ],
    );
    container(
        json!({"securityContext": {
            "seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "x"},
            "appArmorProfile": {},
        }}),
        &[
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"x\": can only \
             be set when seccomp type is Localhost",
            "spec.containers[0].securityContext.appArmorProfile.type: Required value: type is required when \
             appArmorProfile is set",
        ],
    );
}

#[test]
fn operating_systems() {
    spec(
        json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
        &[
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ],
    );
    let windows = json!({"os": {"name": "windows"}, "hostPID": true});
    let privileged = json!({"securityContext": {"privileged": true}});
    assert_eq!(
        problems(kind("Pod"), pod(windows, privileged)),
        [
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
        ]
    );
    spec(
        json!({"os": {"name": "plan9"}}),
        &["spec.os.name: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
}

#[test]
fn amounts() {
    container(
        json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}, "requests": {"example.com/gpu": "1"}}}),
        &[
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable \
             resources",
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ],
    );
    spec(
        json!({"resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}, "requests": {"cpu": "2"}}}),
        &[
            "spec.resources.limits[example.com/gpu]: Unsupported value: \"example.com/gpu\": supported values: \
             \"cpu\", \"hugepages-\", \"memory\"",
            "spec.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    spec(
        json!({"overhead": {"cpu": "-1"}}),
        &["spec.overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
    let policy = json!({"resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "disk", "restartPolicy": "Never"},
    ]});
    container(
        policy.clone(),
        &[
            "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
            "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].resizePolicy: Unsupported value: \"Never\": supported values: \"NotRequired\", \
             \"RestartContainer\"",
        ],
    );
    let mut never = pod(json!({"restartPolicy": "Never"}), policy);
    never["spec"]["containers"][0]["resizePolicy"]
        .as_array_mut()
        .unwrap()
        .truncate(1);
    assert_eq!(
        problems(kind("Pod"), never),
        [
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when \
             `restartPolicy` is 'Never'"
        ]
    );
}

#[test]
fn hooks_end_within_the_grace_period() {
    let sleeps = |seconds: i64| json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}});
    container(sleeps(30), &[]);
    container(
        sleeps(31),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn devices_and_recursive_mounts() {
    let volumes = json!({"volumes": [
        {"name": "e", "emptyDir": {}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "c"}},
    ]});
    let container = json!({
        "volumeDevices": [
            {"name": "c", "devicePath": "/dev/c"},
            {"name": "e", "devicePath": "/dev/../e"},
            {"name": "n"},
        ],
        "volumeMounts": [{"name": "c", "mountPath": "/c", "recursiveReadOnly": "Enabled",
            "mountPropagation": "HostToContainer"}],
    });
    assert_eq!(
        problems(kind("Pod"), pod(volumes, container)),
        [
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when \
             readOnly is true",
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when \
             mountPropagation is None or not specified",
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"c\": must not already exist in \
             volumeMounts",
            "spec.containers[0].volumeDevices[1].name: Invalid value: \"e\": can only use volume source type of \
             PersistentVolumeClaim or Ephemeral for block mode",
            "spec.containers[0].volumeDevices[1].devicePath: Invalid value: \"/dev/../e\": can not contain \
             backsteps ('..')",
            "spec.containers[0].volumeDevices[2].name: Not found: \"n\"",
            "spec.containers[0].volumeDevices[2].devicePath: Required value",
        ]
    );
}

#[test]
fn sources_of_volumes() {
    spec(
        json!({"volumes": [
            {"name": "d", "downwardAPI": {"items": [
                {"path": "a"},
                {"path": "b", "fieldRef": {"fieldPath": "spec.nodeName"}},
                {"path": "c", "resourceFieldRef": {"resource": "limits.cpu"}},
            ]}},
            {"name": "p", "projected": {"sources": [
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "x"}]}},
                {"secret": {"name": "s", "items": [{"key": "k", "path": "x"}]}, "serviceAccountToken":
                    {"path": "t", "expirationSeconds": 60}},
            ]}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "n", "nfs": {"server": "s", "path": "export"}},
            {"name": "i", "image": {"pullPolicy": "Sometimes"}},
        ]}),
        &[
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            "spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported \
             values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \
             \"metadata.uid\"",
            "spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value",
            "spec.volumes[1].projected: Invalid value: \"s\": conflicting duplicate paths",
            "spec.volumes[1].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 60: may \
             not specify a duration less than 10 minutes",
            "spec.volumes[1].projected.sources[1]: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access \
             mode is required",
            "spec.volumes[2].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
            "spec.volumes[3].nfs.path: Invalid value: \"export\": must be an absolute path",
            "spec.volumes[4].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.volumes[4].image.reference: Required value",
        ],
    );
}

#[test]
fn what_variables_show() {
    let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
    container(
        from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
        &[
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
             divisor's values 1m and 1 are supported with the cpu resource",
        ],
    );
    container(
        from(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}})),
        &[],
    );
    container(
        from(json!({"fieldRef": {"fieldPath": "metadata.uid['a']"}})),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef: Invalid value: \"metadata.uid\": does not support \
             subscript",
        ],
    );
    container(
        from(json!({"fieldRef": {"fieldPath": "status.phase"}})),
        &[
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": \
             supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
             \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \
             \"status.podIPs\"",
        ],
    );
}

#[test]
fn resolvers() {
    spec(
        json!({"dnsConfig": {"searches": [".", "_tcp.example.com.", "a b"], "options": [{"value": "1"}]}}),
        &[
            "spec.dnsConfig.searches[2]: Invalid value: \"a b\": a lowercase RFC 1123 subdomain must consist of \
             lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
             character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ],
    );
    let many: Vec<String> = (0..33).map(|number| format!("{number}.example")).collect();
    let problems = problems(
        kind("Pod"),
        pod(json!({"dnsConfig": {"searches": many}}), json!({})),
    );
    assert_eq!(problems.len(), 1);
    assert!(problems[0].ends_with("must not have more than 32 search paths"));
}

#[test]
fn a_template_has_no_ephemeral_containers() {
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "containers": [{"name": "a", "image": "x"}],
            "ephemeralContainers": [{"name": "b", "image": "x"}],
        }},
    }});
    assert_eq!(
        problems(kind("Deployment"), deployment),
        [
            "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"
        ]
    );
}
