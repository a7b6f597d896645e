//! Facts from the Kubernetes API reference that the JSON schemas of k8s-openapi do not carry: how lists are
//! merged by server-side apply (`x-kubernetes-list-type`, `-list-map-keys`), what strategic merge patch does
//! (`x-kubernetes-patch-strategy`, `-patch-merge-key`), and which objects and maps are taken as a whole
//! (`x-kubernetes-map-type: atomic`). Lists that are not here are atomic.

use crate::types::{self, PatchStrategy};

/// [`types::ListType`] in a form that a table can have.
pub(super) enum ListType {
    Atomic,
    Set,
    Map(&'static [&'static str]),
}

impl ListType {
    pub(super) fn shared(&self) -> types::ListType {
        match self {
            Self::Atomic => types::ListType::Atomic,
            Self::Set => types::ListType::Set,
            Self::Map(keys) => types::ListType::Map(keys.iter().map(|key| (*key).into()).collect()),
        }
    }
}

const SET: ListType = ListType::Set;
const ATOMIC: ListType = ListType::Atomic;
const NONE: PatchStrategy = PatchStrategy {
    merge: false,
    retain_keys: false,
    replace: false,
    key: "",
};
const MERGE: PatchStrategy = merge("");
const RETAIN: PatchStrategy = PatchStrategy {
    merge: false,
    retain_keys: true,
    replace: false,
    key: "",
};
const REPLACE: PatchStrategy = PatchStrategy {
    merge: false,
    retain_keys: false,
    replace: true,
    key: "",
};

const fn merge(key: &'static str) -> PatchStrategy {
    PatchStrategy {
        merge: true,
        retain_keys: false,
        replace: false,
        key,
    }
}

const fn merge_retain(key: &'static str) -> PatchStrategy {
    PatchStrategy {
        merge: true,
        retain_keys: true,
        replace: false,
        key,
    }
}

pub(super) type Fact = (&'static str, &'static str, ListType, PatchStrategy);

/// (definition, field, list type, patch strategy).
#[rustfmt::skip]
pub(super) const FIELDS: &[Fact] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", ListType::Map(&["uid"]), merge("uid")),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", SET, MERGE),
    ("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", "conditions", ListType::Map(&["type"]), NONE),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.ResourceRequirements", "claims", ListType::Map(&["name"]), NONE),
    ("io.k8s.api.core.v1.Container", "ports", ListType::Map(&["containerPort", "protocol"]), merge("containerPort")),
    ("io.k8s.api.core.v1.Container", "env", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.Container", "volumeMounts", ListType::Map(&["mountPath"]), merge("mountPath")),
    ("io.k8s.api.core.v1.Container", "volumeDevices", ListType::Map(&["devicePath"]), merge("devicePath")),
    ("io.k8s.api.core.v1.ContainerStatus", "volumeMounts", ListType::Map(&["mountPath"]), merge("mountPath")),
    ("io.k8s.api.core.v1.ContainerStatus", "allocatedResourcesStatus", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.ResourceStatus", "resources", ListType::Map(&["resourceID"]), NONE),
    ("io.k8s.api.core.v1.ContainerRestartRuleOnExitCodes", "values", SET, NONE),
    ("io.k8s.api.core.v1.PodSpec", "volumes", ListType::Map(&["name"]), merge_retain("name")),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.PodSpec", "containers", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", ListType::Map(&["ip"]), merge("ip")),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", ListType::Map(&["topologyKey", "whenUnsatisfiable"]), merge("topologyKey")),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", ListType::Map(&["name"]), merge_retain("name")),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", ListType::Map(&["containerPort", "protocol"]), merge("containerPort")),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", ListType::Map(&["mountPath"]), merge("mountPath")),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", ListType::Map(&["devicePath"]), merge("devicePath")),
    ("io.k8s.api.core.v1.PodStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", ATOMIC, merge("ip")),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", ListType::Map(&["ip"]), merge("ip")),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", ListType::Map(&["name"]), merge_retain("name")),
    ("io.k8s.api.core.v1.ReplicationControllerStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", ListType::Map(&["port", "protocol"]), merge("port")),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", SET, MERGE),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.ComponentStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", "containers", SET, NONE),
    ("io.k8s.api.apps.v1.StatefulSetStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.apps.v1.DeploymentSpec", "strategy", ATOMIC, RETAIN),
    ("io.k8s.api.apps.v1.DeploymentStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.apps.v1.DaemonSetStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics", ATOMIC, NONE),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.batch.v1.JobStatus", "conditions", ATOMIC, merge("type")),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", "failed", SET, NONE),
    ("io.k8s.api.batch.v1.UncountedTerminatedPods", "succeeded", SET, NONE),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", SET, NONE),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", "matchConditions", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", "matchConditions", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions", SET, NONE),
    ("io.k8s.api.networking.v1.ServiceCIDRStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions", ListType::Map(&["type"]), NONE),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.discovery.v1.Endpoint", "addresses", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", "conditions", ListType::Map(&["type"]), merge("type")),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", ListType::Map(&["name"]), merge("name")),
    ("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", ListType::Map(&["type"]), NONE),
    ("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", "nonResourceURLs", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.NonResourcePolicyRule", "verbs", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "apiGroups", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "namespaces", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "resources", SET, NONE),
    ("io.k8s.api.flowcontrol.v1.ResourcePolicyRule", "verbs", SET, NONE),
    ("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "selector", ATOMIC, REPLACE),
    ("io.k8s.api.storage.v1.CSIDriverSpec", "volumeLifecycleModes", SET, NONE),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "x-kubernetes-validations", ListType::Map(&["rule"]), merge("rule")),
];

/// Maps of a field that server-side apply takes as a whole.
pub(super) const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector"),
    ("io.k8s.api.node.v1.Scheduling", "nodeSelector"),
    ("io.k8s.api.core.v1.ReplicationControllerSpec", "selector"),
    ("io.k8s.api.core.v1.ServiceSpec", "selector"),
];

/// Types whose objects server-side apply takes as a whole.
pub(super) const ATOMIC_TYPES: &[&str] = &[
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.autoscaling.v1.CrossVersionObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.api.admissionregistration.v1.MatchResources",
    "io.k8s.api.admissionregistration.v1.NamedRuleWithOperations",
    "io.k8s.api.admissionregistration.v1.ParamKind",
    "io.k8s.api.admissionregistration.v1.ParamRef",
    "io.k8s.api.admissionregistration.v1.Variable",
    "io.k8s.api.networking.v1.ServiceBackendPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// References by name: Kubernetes' documents do not require the name (it has the default "", `+default=""` in
/// k8s.io/api/core/v1), though validation does where it matters.
pub(super) const NAME_NOT_REQUIRED: &[&str] = &[
    "io.k8s.api.core.v1.ConfigMapEnvSource",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.ConfigMapProjection",
    "io.k8s.api.core.v1.ConfigMapVolumeSource",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.SecretEnvSource",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretProjection",
];

/// The only type whose metadata must be there (no `omitempty`).
pub(super) const METADATA_REQUIRED: &str = "io.k8s.api.core.v1.Event";
