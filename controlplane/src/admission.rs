//! Who else has a say about writes: webhooks that change objects, then webhooks and policies that judge them. Also asks
//! the webhooks that convert custom resources.
//!
//! [`matching`] and [`review`] are pure; [`call`] does the talking. The registry calls this by its interface
//! ([`crate::registry::judges`]) for every write, whoever makes it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::dialer::Dialer;
use crate::kinds::access::{list, text};
use crate::kinds::admission::webhooks::{MUTATING, VALIDATING};
use crate::kinds::{Kind, admission};
use crate::patch::json_patch;
use crate::registry::judges::{Attempt, Judges, PATCH_ANNOTATIONS, Remarks};
use crate::registry::list::ListOptions;
use crate::registry::versions::Boxed;
use crate::registry::{ApiError, Registry, key, object};
use crate::store::{Freshness, RangeRequest};

mod call;
mod conversion;
mod matching;
mod policies;
mod review;

use policies::Bound;

/// Puts webhooks and policies between the registry and its writes.
pub(crate) fn attach(registry: &Registry, dialer: &Dialer) {
    registry.set_judges(Arc::new(Admission {
        dialer: dialer.clone(),
    }));
    registry.set_converter(Arc::new(conversion::Webhooks {
        dialer: dialer.clone(),
    }));
}

#[derive(Debug)]
struct Admission {
    dialer: Dialer,
}

/// A webhook and whose it is.
struct Webhook {
    said: Value,
    /// Object that the webhook is part of, for the metrics and the order.
    configuration: String,
}

/// Objects that say who judges are not judged themselves, so that what locks everybody out can be taken away.
fn is_exempt(kind: &Kind<'_>) -> bool {
    kind.group == "admissionregistration.k8s.io"
        && matches!(
            kind.kind,
            "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

/// Whether there is nobody at all who has a say, as in most clusters: each write asks three times.
async fn nobody(registry: &Registry) -> Result<bool, ApiError> {
    let request = RangeRequest {
        prefix: key::group(admission::GROUP),
        after: None,
        limit: 1,
        revision: None,
        freshness: Freshness::Local,
    };
    Ok(registry.store().range(request).await?.items.is_empty())
}

/// Everything of a kind, as this member has it.
async fn all(registry: &Registry, kind: &Kind<'_>) -> Result<Vec<Value>, ApiError> {
    let options = ListOptions {
        resource_version: Some(0),
        ..ListOptions::default()
    };
    let page = registry.list(kind, "", &options).await?;
    Ok(page.items.iter().map(|kv| object::decode(kv)).collect())
}

/// The webhooks of all configurations, in the order of their names.
async fn webhooks(registry: &Registry, kind: &Kind<'_>) -> Result<Vec<Webhook>, ApiError> {
    let mut found = Vec::new();
    for configuration in all(registry, kind).await? {
        for said in list(&configuration, &["webhooks"]) {
            found.push(Webhook {
                said: said.clone(),
                configuration: object::name(&configuration).to_owned(),
            });
        }
    }
    Ok(found)
}

impl Judges for Admission {
    fn concern<'a>(
        &'a self,
        registry: &'a Registry,
        kind: &'a Kind<'a>,
    ) -> Boxed<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            if is_exempt(kind) || nobody(registry).await? {
                return Ok(false);
            }
            let others = registry.equivalents(kind);
            for configurations in [&MUTATING, &VALIDATING] {
                for webhook in webhooks(registry, configurations).await? {
                    let concerns =
                        |kind: &Kind<'_>| matching::may_match(&webhook.said, "rules", kind);
                    if concerns(kind) || others.iter().any(|other| concerns(&other.get())) {
                        return Ok(true);
                    }
                }
            }
            for bindings in [
                &admission::validating_policy::BINDING,
                &admission::mutating_policy::BINDING,
            ] {
                if !all(registry, bindings).await?.is_empty() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn mutate<'a>(
        &'a self,
        registry: &'a Registry,
        attempt: Attempt<'a>,
    ) -> Boxed<'a, Result<Option<Value>, ApiError>> {
        Box::pin(async move {
            if is_exempt(attempt.kind) || nobody(registry).await? {
                return Ok(None);
            }
            let policies = policies::mutating::policies(registry).await?;
            let webhooks = webhooks(registry, &MUTATING).await?;
            if policies.is_empty() && webhooks.is_empty() {
                return Ok(None);
            }
            mutate(registry, &self.dialer, &policies, &webhooks, attempt).await
        })
    }

    fn validate<'a>(
        &'a self,
        registry: &'a Registry,
        attempt: Attempt<'a>,
    ) -> Boxed<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if is_exempt(attempt.kind) || nobody(registry).await? {
                return Ok(());
            }
            policies::validating::validate(registry, attempt).await?;
            let webhooks = webhooks(registry, &VALIDATING).await?;
            // All at once; the first refusal in their order counts.
            let asked = webhooks.iter().enumerate().map(|(index, webhook)| {
                let turn = Turn::validating(index);
                ask(registry, &self.dialer, webhook, attempt, turn)
            });
            for answer in futures::future::join_all(asked).await {
                answer?;
            }
            Ok(())
        })
    }
}

/// An object on its way through those who may change it.
struct Changing<'a> {
    attempt: Attempt<'a>,
    object: Option<Value>,
    /// How often it was changed.
    changes: usize,
}

impl Changing<'_> {
    fn now(&self) -> Attempt<'_> {
        Attempt {
            object: self.object.as_ref(),
            ..self.attempt
        }
    }

    fn take(&mut self, new: Option<Value>) {
        if new.is_some() && new != self.object {
            self.object = new;
            self.changes += 1;
        }
    }
}

/// One after the other, policies first. Those that want it are asked once more when others have changed the object
/// after them.
async fn mutate(
    registry: &Registry,
    dialer: &Dialer,
    policies: &[Bound],
    webhooks: &[Webhook],
    attempt: Attempt<'_>,
) -> Result<Option<Value>, ApiError> {
    let mut changing = Changing {
        attempt,
        object: attempt.object.cloned(),
        changes: 0,
    };
    // Who was asked, and how often the object had been changed when they were done.
    let (mut applied, mut asked) = (Vec::new(), Vec::new());
    for policy in policies {
        if let Some(new) = policy.change(registry, changing.now()).await? {
            changing.take(Some(new));
            applied.push((policy, changing.changes));
        }
    }
    for (index, webhook) in webhooks.iter().enumerate() {
        let turn = Turn::mutating(0, index);
        if let Some(new) = ask(registry, dialer, webhook, changing.now(), turn).await? {
            changing.take(new);
            asked.push((index, webhook, changing.changes));
        }
    }
    for (policy, seen) in applied {
        if policy.is_asked_again() && changing.changes > seen {
            let new = policy.change(registry, changing.now()).await?;
            changing.take(new);
        }
    }
    for (index, webhook, seen) in asked {
        let again = text(&webhook.said, &["reinvocationPolicy"]) == "IfNeeded";
        let turn = Turn::mutating(1, index);
        if again
            && changing.changes > seen
            && let Some(new) = ask(registry, dialer, webhook, changing.now(), turn).await?
        {
            changing.take(new);
        }
    }
    Ok(changing.object.filter(|_| changing.changes > 0))
}

/// The object with the patch that the webhook answered; `None` when nothing is changed by it.
fn patched(
    name: &str,
    answer: &review::Answer,
    object: Option<&Value>,
) -> Result<Option<Value>, ApiError> {
    let Some(patch) = &answer.patch else {
        return Ok(None);
    };
    let Some(object) = object else {
        return Err(ApiError::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        )));
    };
    let patched = json_patch(object, patch).map_err(|error| {
        ApiError::internal(format!(
            "failed calling webhook {name:?}: applying the patch: {error}"
        ))
    })?;
    Ok((patched != *object).then_some(patched))
}

/// When a webhook is asked: names of annotations in the audit log say so.
#[derive(Debug, Clone, Copy)]
struct Turn {
    sort: &'static str,
    round: usize,
    index: usize,
}

impl Turn {
    fn mutating(round: usize, index: usize) -> Self {
        let sort = "mutation";
        Self { sort, round, index }
    }

    fn validating(index: usize) -> Self {
        Self {
            sort: "validating",
            round: 0,
            index,
        }
    }

    fn mutates(self) -> bool {
        self.sort == "mutation"
    }

    fn place(self) -> String {
        format!("round_{}_index_{}", self.round, self.index)
    }
}

/// Tells the audit log whether and how a webhook changed the object.
fn note_change(
    webhook: &Webhook,
    turn: Turn,
    answer: &review::Answer,
    mutated: bool,
    remarks: &Remarks,
) {
    let by = json!({
        "configuration": webhook.configuration, "webhook": text(&webhook.said, &["name"]),
    });
    let mut note = by.clone();
    note["mutated"] = mutated.into();
    let place = turn.place();
    remarks.annotate(
        format!("mutation.webhook.admission.k8s.io/{place}"),
        note.to_string(),
    );
    if let Some(patch) = answer.patch.as_ref().filter(|_| mutated) {
        let mut note = by;
        note["patch"] = patch.clone();
        note["patchType"] = "JSONPatch".into();
        remarks.annotate(format!("{PATCH_ANNOTATIONS}{place}"), note.to_string());
    }
}

/// What the webhook has made of the object, where it has changed it. `None` when the webhook is not about this write, or
/// could not be asked and does not insist.
async fn ask(
    registry: &Registry,
    dialer: &Dialer,
    webhook: &Webhook,
    attempt: Attempt<'_>,
    turn: Turn,
) -> Result<Option<Option<Value>>, ApiError> {
    let said = &webhook.said;
    let name = text(said, &["name"]);
    let Some(version) = matching::rules_match(registry, said, "rules", attempt) else {
        return Ok(None);
    };
    if !matching::selectors_match(registry, said, attempt).await? {
        return Ok(None);
    }
    let requested = attempt;
    let shown = matching::Shown::of(registry, requested, version).await?;
    let kind = shown.kind(requested.kind);
    let attempt = shown.attempt(&kind, requested);
    let insists = text(said, &["failurePolicy"]) != "Ignore";
    if !list(said, &["matchConditions"]).is_empty() {
        let variables = matching::variables(registry, attempt);
        match matching::conditions_hold(said, &variables) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(_) if !insists => return Ok(None),
            Err(problem) => return Err(refused(requested, &problem)),
        }
    }
    let effects = text(said, &["sideEffects"]);
    if attempt.dry_run && !matches!(effects, "None" | "NoneOnDryRun") {
        return Err(ApiError::bad_request(format!(
            "admission webhook {name:?} does not support dry run"
        )));
    }
    let answer = match answered(registry, dialer, webhook, attempt, turn).await {
        Ok(answer) => answer,
        Err(problem) if insists => {
            tracing::debug!(
                webhook = name,
                configuration = webhook.configuration,
                problem,
                "a webhook failed"
            );
            return Err(ApiError::internal(format!(
                "failed calling webhook {name:?}: {problem}"
            )));
        }
        Err(problem) => {
            tracing::warn!(
                webhook = name,
                problem,
                "a webhook failed, which it does not mind"
            );
            let sort = format!("failed-open.{}.webhook.admission.k8s.io", turn.sort);
            let key = format!("{sort}/{}", turn.place());
            attempt.remarks.annotate(key, name.to_owned());
            return Ok(None);
        }
    };
    for warning in &answer.warnings {
        attempt.remarks.warn(warning.clone());
    }
    for (key, value) in &answer.annotations {
        let key = format!("{name}/{key}");
        attempt.remarks.annotate(key, value.clone());
    }
    if let Some(refusal) = &answer.refusal {
        return Err(refusal.clone());
    }
    if !turn.mutates() {
        return Ok(Some(None));
    }
    let new = patched(name, &answer, attempt.object)?;
    note_change(webhook, turn, &answer, new.is_some(), attempt.remarks);
    match new {
        None => Ok(Some(None)),
        Some(new) => {
            let new = shown.back(registry, requested, new).await?;
            Ok(Some(Some(new)))
        }
    }
}

/// What the webhook says, or why that is not known.
async fn answered(
    registry: &Registry,
    dialer: &Dialer,
    webhook: &Webhook,
    attempt: Attempt<'_>,
    turn: Turn,
) -> Result<review::Answer, String> {
    let said = &webhook.said;
    let version = review::version(said).map_err(|review::Unusable(why)| why)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::question(version, &uid, attempt);
    let answer = call::post(registry, dialer, said, &body).await;
    let answer = answer.map_err(|why| format!("failed to call webhook: {why}"))?;
    let asked = review::Asked {
        webhook: text(said, &["name"]),
        uid: &uid,
        version,
        mutates: turn.mutates(),
    };
    review::answer(asked, &answer).map_err(|review::Unusable(why)| match why {
        why if why.starts_with("received ") => why,
        why => format!("received invalid webhook response: {why}"),
    })
}

fn refused(attempt: Attempt<'_>, why: &str) -> ApiError {
    let kind = attempt.kind;
    ApiError::forbidden(kind.group, kind.plural, attempt.shown_name(), why)
}
