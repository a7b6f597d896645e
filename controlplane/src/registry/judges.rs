//! Who else is asked about a write: the interface of admission webhooks and policies ([`crate::admission`]), and who
//! is said to make it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::versions::Boxed;
use super::{ApiError, Registry, WriteOptions};
use crate::kinds::Kind;
use crate::kinds::custom::expressions::Access;

/// Who makes a write, as reviews of it say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requester {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl Requester {
    /// A part of the control plane.
    pub(crate) fn controller(manager: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:kube-system:{manager}"),
            groups: [
                "system:serviceaccounts",
                "system:serviceaccounts:kube-system",
                "system:authenticated",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Self::default()
        }
    }
}

/// Names of annotations that hold what a webhook changed.
pub(crate) const PATCH_ANNOTATIONS: &str = "patch.webhook.admission.k8s.io/";

/// What judges say of a write besides yes and no: warnings for the client, annotations for the audit log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remarks(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Remarks {
    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn warn(&self, warning: String) {
        let all = &mut self.said().warnings;
        // A write that is computed again is warned about once.
        if !all.contains(&warning) {
            all.push(warning);
        }
    }

    /// The last one of a name counts: a write that is computed again is judged again.
    pub(crate) fn annotate(&self, name: String, value: String) {
        self.said().annotations.insert(name, value);
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.said().warnings)
    }

    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        self.said().annotations.clone()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A connection into an object, such as `pods/exec`.
    Connect,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Group, version and kind.
pub(crate) type GroupKind<'a> = (&'a str, &'a str, &'a str);

/// A write that is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) kind: &'a Kind<'a>,
    /// What the object is, where the subresource speaks another kind (`Scale`, `Eviction`).
    pub(crate) speaks: Option<GroupKind<'a>>,
    /// The kind of the request, where the objects are shown in another version.
    pub(crate) requested: Option<&'a Kind<'a>>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) operation: Operation,
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
    /// What else the request says of itself, as fields of its options: `fieldManager` and so on.
    pub(crate) options: &'a Value,
    pub(crate) requester: &'a Requester,
    pub(crate) remarks: &'a Remarks,
}

impl<'a> Attempt<'a> {
    /// What refusals call the object: one that gets its name from the server has it by then.
    pub(crate) fn shown_name(&self) -> &'a str {
        match (self.name, self.object) {
            ("", Some(object)) => super::object::name(object),
            (name, _) => name,
        }
    }
}

pub(crate) trait Judges: std::fmt::Debug + Send + Sync {
    /// Whether writes of the kind may be judged at all.
    fn concern<'a>(
        &'a self,
        registry: &'a Registry,
        kind: &'a Kind<'a>,
    ) -> Boxed<'a, Result<bool, ApiError>>;

    /// The object as those who may change it want it.
    fn mutate<'a>(
        &'a self,
        registry: &'a Registry,
        attempt: Attempt<'a>,
    ) -> Boxed<'a, Result<Option<Value>, ApiError>>;

    fn validate<'a>(
        &'a self,
        registry: &'a Registry,
        attempt: Attempt<'a>,
    ) -> Boxed<'a, Result<(), ApiError>>;
}

impl WriteOptions {
    pub(crate) fn requester(&self) -> Requester {
        let known = self.requester.clone();
        known.unwrap_or_else(|| Requester::controller(&self.manager))
    }
}

impl Registry {
    pub(crate) fn set_judges(&self, judges: Arc<dyn Judges>) {
        // Set once, where the member is put together.
        let _ = self.inner.judges.set(judges);
    }

    /// Who answers what expressions ask of rights.
    pub(crate) fn set_access(&self, access: Arc<dyn Access>) {
        // Set once, as above.
        let _ = self.inner.access.set(access);
    }

    pub(crate) fn access(&self) -> Option<&Arc<dyn Access>> {
        self.inner.access.get()
    }

    pub(super) async fn is_judged(&self, kind: &Kind<'_>) -> Result<bool, ApiError> {
        match self.inner.judges.get() {
            Some(judges) => judges.concern(self, kind).await,
            None => Ok(false),
        }
    }

    /// Asks about what is no write of an object: a connection, an eviction, a token. `attempt.object` is what it is
    /// asked with; the answer is what others have made of that, where they have changed it.
    pub(crate) async fn judge_part(&self, attempt: Attempt<'_>) -> Result<Option<Value>, ApiError> {
        if !self.is_judged(attempt.kind).await? {
            return Ok(None);
        }
        let changed = self.mutated(attempt).await?;
        let object = changed.as_ref().or(attempt.object);
        self.judged(Attempt { object, ..attempt }).await?;
        Ok(changed)
    }

    pub(super) async fn mutated(&self, attempt: Attempt<'_>) -> Result<Option<Value>, ApiError> {
        match self.inner.judges.get() {
            Some(judges) => judges.mutate(self, attempt).await,
            None => Ok(None),
        }
    }

    pub(super) async fn judged(&self, attempt: Attempt<'_>) -> Result<(), ApiError> {
        match self.inner.judges.get() {
            Some(judges) => judges.validate(self, attempt).await,
            None => Ok(()),
        }
    }
}
