//! Seccomp and AppArmor profiles, system controls, process id namespaces: what a pod says of how its containers are confined.
//! Pure but for reading profiles.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use super::app_armor;
use crate::runtime::{Confinement, PidNamespace, Seccomp, Sharing};

/// Below the agent's data directory: where `localhostProfile` is looked for.
const PROFILES: &str = "seccomp";

pub(crate) fn confinement(
    pod: &Pod,
    container: &Container,
    data_dir: &Path,
    target: Option<u32>,
) -> Result<Confinement, String> {
    let spec = pod.spec.as_ref();
    let shared = spec.and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let profile = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or(shared.and_then(|shared| shared.seccomp_profile.as_ref()));
    let sharing = sharing(pod);
    let pid = match target {
        _ if spec.is_some_and(|spec| spec.host_pid == Some(true)) => PidNamespace::Host,
        _ if sharing.processes => PidNamespace::Pod,
        Some(target) => PidNamespace::Of(target),
        None => PidNamespace::Own,
    };
    let groups = shared.and_then(|shared| shared.supplemental_groups_policy.as_deref());
    let proc_mount = own.and_then(|own| own.proc_mount.as_deref());
    Ok(Confinement {
        seccomp: profile.map_or(Ok(Seccomp::Unconfined), |it| seccomp(it, data_dir))?,
        unmasked_proc: proc_mount == Some("Unmasked"),
        sysctls: sysctls(pod),
        app_armor: app_armor::profile(pod, container, app_armor::loaded)?,
        strict_groups: groups == Some("Strict"),
        pid,
    })
}

pub(crate) fn sharing(pod: &Pod) -> Sharing {
    let spec = pod.spec.clone().unwrap_or_default();
    Sharing {
        processes: spec.share_process_namespace == Some(true) && spec.host_pid != Some(true),
        host_ipc: spec.host_ipc == Some(true),
    }
}

/// With dots between the parts of their names, in whichever way they were written.
pub(crate) fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let context = pod
        .spec
        .as_ref()
        .and_then(|it| it.security_context.as_ref());
    let all = context.iter().flat_map(|it| it.sysctls.iter().flatten());
    all.map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone()))
        .collect()
}

/// `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`: whichever separator comes first is the separator.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn seccomp(profile: &SeccompProfile, data_dir: &Path) -> Result<Seccomp, String> {
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let inside =
                |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            if name.is_empty() || !Path::new(name).components().all(inside) {
                return Err(format!("invalid seccomp profile {name:?}"));
            }
            let path = data_dir.join(PROFILES).join(name);
            let failed = |why: String| {
                format!(
                    "cannot load seccomp profile {:?}: {why}",
                    path.display().to_string()
                )
            };
            let text = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
            let profile =
                serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
            Ok(Seccomp::Profile(Box::new(profile)))
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn confined(pod: serde_json::Value, dir: &Path) -> Result<Confinement, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": pod})).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        confinement(&pod, &container, dir, None)
    }

    #[test]
    fn profiles_are_the_containers_or_the_pods() {
        let dir = tempfile::tempdir().unwrap();
        let local = |name: &str| {
            let profile = serde_json::json!({"type": "Localhost", "localhostProfile": name});
            confined(
                serde_json::json!({"securityContext": {"seccompProfile": profile},
                    "containers": [{"name": "c"}]}),
                dir.path(),
            )
        };
        assert!(local("none.json").unwrap_err().contains("cannot load"));
        assert!(local("../x").unwrap_err().contains("invalid"));
        std::fs::create_dir(dir.path().join(PROFILES)).unwrap();
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
            [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(dir.path().join(PROFILES).join("p.json"), text).unwrap();
        assert!(matches!(
            local("p.json").unwrap().seccomp,
            Seccomp::Profile(_)
        ));
        let both = serde_json::json!({
            "securityContext": {"seccompProfile": {"type": "Unconfined"}},
            "containers": [{"name": "c", "securityContext":
                {"seccompProfile": {"type": "RuntimeDefault"}}}]});
        let both = confined(both, dir.path()).unwrap();
        assert!(matches!(both.seccomp, Seccomp::RuntimeDefault));
    }

    #[test]
    fn names_of_system_controls_are_written_with_dots() {
        for (name, dotted_name) in [
            ("net.ipv4.tcp_syncookies", "net.ipv4.tcp_syncookies"),
            ("net/ipv4/tcp_syncookies", "net.ipv4.tcp_syncookies"),
            ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x"),
            ("net.ipv4.conf.eth0/1.x", "net.ipv4.conf.eth0/1.x"),
        ] {
            assert_eq!(dotted(name), dotted_name);
        }
    }
}
