//! FlowSchema and PriorityLevelConfiguration (flowcontrol.apiserver.k8s.io/v1).

pub(crate) mod level;
pub(crate) mod schema;

pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
