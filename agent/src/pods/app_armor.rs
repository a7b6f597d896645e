//! AppArmor: the profile that a container is to have, and what a node without AppArmor says to that. Pure.
//!
//! Deliberately not here: loading profiles, which is the host's own business, and a default one: containers that name
//! no profile have none.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use super::admit::Refused;
use super::wanted;

/// Where the kernel says whether it is in force, `Y` or `N`.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Profiles that are loaded, a line each: a name, then its mode in brackets.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

pub(crate) fn is_enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// The text of [`LOADED`]; empty where there is none.
pub(crate) fn loaded() -> String {
    std::fs::read_to_string(LOADED).unwrap_or_default()
}

/// The container's own profile, or the pod's; none also for one that says `Unconfined`.
fn asked<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a AppArmorProfile> {
    let own = container.security_context.as_ref();
    let shared = pod.spec.as_ref()?.security_context.as_ref();
    own.and_then(|own| own.app_armor_profile.as_ref())
        .or(shared.and_then(|shared| shared.app_armor_profile.as_ref()))
        .filter(|profile| profile.type_ != "Unconfined")
}

/// A pod that asks for what this node cannot enforce.
pub(super) fn refused(pod: &Pod, enabled: bool) -> Option<Refused> {
    let types = wanted::containers(pod.spec.as_ref()?)
        .filter_map(|container| Some(asked(pod, &container)?.type_.clone()))
        .collect::<Vec<_>>();
    let why = if types.is_empty() {
        return None;
    } else if !enabled {
        "AppArmor is not enabled on the host"
    } else if types.iter().any(|kind| kind == "RuntimeDefault") {
        "the runtime has no default profile"
    } else {
        return None;
    };
    Some(Refused {
        reason: "AppArmor",
        message: format!("Pod was rejected: Cannot enforce AppArmor: {why}"),
    })
}

/// The name of the profile that a container is confined by.
pub(super) fn profile(
    pod: &Pod,
    container: &Container,
    loaded: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    let Some(name) = asked(pod, container).and_then(|it| it.localhost_profile.clone()) else {
        return Ok(None);
    };
    let is_it = |line: &str| {
        line.rsplit_once(" (")
            .is_some_and(|(known, _)| known == name)
    };
    if loaded().lines().any(is_it) {
        Ok(Some(name))
    } else {
        Err(format!("apparmor profile not found {name}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn pod(shared: &Value, own: &Value) -> Pod {
        let context = |profile: &Value| json!({"appArmorProfile": profile});
        serde_json::from_value(json!({"spec": {"securityContext": context(shared),
            "containers": [{"name": "c", "securityContext": context(own)}]}}))
        .unwrap()
    }

    #[test]
    fn a_node_refuses_what_it_cannot_enforce() {
        let default = json!({"type": "RuntimeDefault"});
        let local = json!({"type": "Localhost", "localhostProfile": "p"});
        let none = json!({"type": "Unconfined"});
        for (shared, own, enabled, why) in [
            (&Value::Null, &Value::Null, false, None),
            (&none, &Value::Null, false, None),
            (&local, &none, false, None),
            (
                &local,
                &Value::Null,
                false,
                Some("is not enabled on the host"),
            ),
            (&none, &default, false, Some("is not enabled on the host")),
            (&local, &Value::Null, true, None),
            (&default, &local, true, None),
            (&default, &Value::Null, true, Some("has no default profile")),
        ] {
            let refused = refused(&pod(shared, own), enabled);
            match why {
                None => assert_eq!(refused, None, "{shared} {own}"),
                Some(why) => {
                    let refused = refused.unwrap();
                    assert_eq!(refused.reason, "AppArmor");
                    assert!(refused.message.ends_with(why), "{}", refused.message);
                }
            }
        }
    }

    #[test]
    fn a_profile_is_used_if_it_is_loaded() {
        let loaded = || "docker-default (enforce)\nmy profile (1) (complain)\n".to_owned();
        let of = |name: &str| {
            let local = json!({"type": "Localhost", "localhostProfile": name});
            let pod = pod(&Value::Null, &local);
            profile(&pod, &pod.spec.as_ref().unwrap().containers[0], loaded)
        };
        assert_eq!(of("my profile (1)").unwrap().unwrap(), "my profile (1)");
        assert_eq!(
            of("docker").unwrap_err(),
            "apparmor profile not found docker"
        );
    }
}
