//! The quality-of-service class of a pod.

use serde_json::Value;

use crate::kinds::access::{list, text};
use crate::kinds::quantity::Quantity;

/// `Guaranteed` when every container limits CPU and memory and requests just that, `BestEffort` when none
/// asks for anything, else `Burstable`.
pub(super) fn class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for field in ["initContainers", "containers"] {
        for container in list(pod, &["spec", field]) {
            for resource in ["cpu", "memory"] {
                let amount = |kind: &str| {
                    text(container, &["resources", kind, resource])
                        .parse::<Quantity>()
                        .ok()
                        .filter(|amount| !amount.is_zero())
                };
                let (request, limit) = (amount("requests"), amount("limits"));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
