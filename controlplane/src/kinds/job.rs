//! Job (batch/v1).

mod policies;
mod update;

use serde_json::{Value, json};

use super::access::{
    at, fill, fill_absent, flag, integer, list_mut, map, object_mut, strings, text,
};
use super::errors::Errors;
use super::replica_set::not_negative;
use super::stateful_set::one_of;
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, meta, pod, selector, table, time,
};

pub(super) static KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.batch.v1.Job",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Job,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::batch::v1::Job>();
    },
};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
/// Indexes are written down, so there is a limit to how many there are.
const MOST_INDEXES: i64 = 100_000;

#[derive(Debug)]
struct Job;

/// The labels that tell the pods of one Job from those of another, in their new and their old spelling.
fn own_labels(object: &Value) -> [(&'static str, &str); 4] {
    let uid = text(object, &["metadata", "uid"]);
    let name = text(object, &["metadata", "name"]);
    [
        ("controller-uid", uid),
        ("job-name", name),
        (CONTROLLER_UID, uid),
        ("batch.kubernetes.io/job-name", name),
    ]
}

/// The selector and the labels that a Job gets that does not choose its own.
fn generate_selector(object: &mut Value) {
    let known = !text(object, &["metadata", "uid"]).is_empty()
        && !text(object, &["metadata", "name"]).is_empty();
    if !known || flag(object, &["spec", "manualSelector"]) {
        return;
    }
    let labels = own_labels(object).map(|(key, value)| (key, value.to_owned()));
    let template = object_mut(object, &["spec", "template", "metadata", "labels"]);
    for (key, value) in &labels {
        fill(template, key, value.as_str());
    }
    if at(object, &["spec", "selector"]).is_none() {
        let (_, uid) = &labels[0];
        object_mut(object, &["spec"]).insert(
            "selector".into(),
            json!({"matchLabels": {CONTROLLER_UID: uid}}),
        );
    }
}

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned();
        let new = text(object, &["metadata", "resourceVersion"]).is_empty()
            && at(object, &["spec", "selector"]).is_none();
        if let Some(labels) = labels
            && new
            && map(object, &["metadata", "labels"]).is_none_or(serde_json::Map::is_empty)
        {
            object_mut(object, &["metadata"]).insert("labels".into(), labels);
        }
        let per_index = at(object, &["spec", "backoffLimitPerIndex"]).is_some();
        let policy = at(object, &["spec", "podFailurePolicy"]).is_some();
        let spec = object_mut(object, &["spec"]);
        if super::access::is_unset(spec.get("completions"))
            && super::access::is_unset(spec.get("parallelism"))
        {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        fill(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        fill_absent(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        fill(spec, "manualSelector", false);
        fill_absent(
            spec,
            "podReplacementPolicy",
            if policy {
                "Failed"
            } else {
                "TerminatingOrFailed"
            },
        );
        for rule in list_mut(object, &["spec", "podFailurePolicy", "rules"]) {
            for pattern in list_mut(rule, &["onPodConditions"]) {
                fill(object_mut(pattern, &[]), "status", "True");
            }
        }
        pod::default_template(object);
        generate_selector(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            update::status(object, old, &mut errors);
            return errors.into_vec();
        }
        spec(object, "spec", &mut errors);
        chosen(object, &mut errors);
        if let Some(old) = old {
            update::spec(object, old, &mut errors);
        } else {
            names_of_pods(object, &mut errors);
        }
        errors.into_vec()
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        update::warnings(object)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Status", "string", "What has become of it."),
            table::column(
                "Completions",
                "string",
                "Pods that succeeded of those asked for.",
            ),
            table::column("Duration", "string", "Time from start to end."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
            table::wide("Selector", "string", "Which pods belong to it."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let (containers, images) = table::containers(object);
        vec![
            table::name(object),
            state(object).into(),
            completions(object).into(),
            duration(object, now).into(),
            table::age(object, now),
            containers,
            images,
            selector::shown(at(object, &["spec", "selector"])).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let succeeded = integer(object, &["status", "succeeded"]).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn default_propagation(&self) -> &'static str {
        // What the oldest clients expect of a deletion that does not say.
        "Orphan"
    }
}

/// A condition of the Job that is True.
pub(super) fn has(object: &Value, kind: &str) -> bool {
    super::access::list(object, &["status", "conditions"])
        .iter()
        .any(|condition| {
            text(condition, &["type"]) == kind && text(condition, &["status"]) == "True"
        })
}

fn state(object: &Value) -> &'static str {
    if has(object, "Complete") {
        "Complete"
    } else if has(object, "Failed") {
        "Failed"
    } else if at(object, &["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else if has(object, "Suspended") {
        "Suspended"
    } else if has(object, "FailureTarget") {
        "FailureTarget"
    } else if has(object, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(object: &Value) -> String {
    let succeeded = integer(object, &["status", "succeeded"]).unwrap_or(0);
    let parallelism = integer(object, &["spec", "parallelism"]).unwrap_or(0);
    match integer(object, &["spec", "completions"]) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration(object: &Value, now: i64) -> String {
    let second = |field: &str| time::seconds(text(object, &["status", field]));
    match (second("startTime"), second("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => time::human_duration(end.unwrap_or(now) - start),
    }
}

/// The spec of a Job at `field`, also that of a CronJob's template.
pub(super) fn spec(holder: &Value, field: &str, errors: &mut Errors) {
    let job = json!({"spec": holder.get("spec").cloned().unwrap_or_default()});
    let mut own = Errors::new();
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(&job, name, &mut own);
    }
    let mode = at(&job, &["spec", "completionMode"]).and_then(Value::as_str);
    match mode.unwrap_or("NonIndexed") {
        "NonIndexed" => per_index(&job, &mut own),
        "Indexed" => indexed(&job, &mut own),
        other => own.not_supported("spec.completionMode", other, &["Indexed", "NonIndexed"]),
    }
    one_of(
        &job,
        &["spec", "podReplacementPolicy"],
        &["Failed", "TerminatingOrFailed"],
        &mut own,
    );
    policies::failure(&job, &mut own);
    policies::success(&job, &mut own);
    if let Some(manager) = at(&job, &["spec", "managedBy"]).and_then(Value::as_str) {
        policies::managed_by(manager, &mut own);
    }
    template(&job, &mut own);
    errors.extend_below(own, "spec", field);
}

fn indexed(job: &Value, errors: &mut Errors) {
    let Some(completions) = integer(job, &["spec", "completions"]) else {
        errors.required("spec.completions", "when completion mode is Indexed");
        return;
    };
    let parallelism = integer(job, &["spec", "parallelism"]).unwrap_or(0);
    if completions > MOST_INDEXES && at(job, &["spec", "backoffLimitPerIndex"]).is_some() {
        errors.invalid(
            "spec.completions",
            completions,
            "must be less than or equal to 100000 when backoffLimitPerIndex is specified",
        );
    }
    if parallelism > MOST_INDEXES {
        errors.invalid(
            "spec.parallelism",
            parallelism,
            "must be less than or equal to 100000 when completion mode is Indexed",
        );
    }
    if let Some(most) = integer(job, &["spec", "maxFailedIndexes"]) {
        if most > completions {
            errors.invalid(
                "spec.maxFailedIndexes",
                most,
                "must be less than or equal to completions",
            );
        }
        if at(job, &["spec", "backoffLimitPerIndex"]).is_none() {
            errors.required(
                "spec.backoffLimitPerIndex",
                "when maxFailedIndexes is specified",
            );
        }
    }
}

fn per_index(job: &Value, errors: &mut Errors) {
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if let Some(value) = integer(job, &["spec", field]) {
            errors.invalid(
                format!("spec.{field}"),
                value,
                "requires indexed completion mode",
            );
        }
    }
    if at(job, &["spec", "successPolicy"]).is_some() {
        errors.invalid(
            "spec.successPolicy",
            at(job, &["spec", "successPolicy"])
                .cloned()
                .unwrap_or_default(),
            "requires indexed completion mode",
        );
    }
}

fn template(job: &Value, errors: &mut Errors) {
    let Some(template) = at(job, &["spec", "template"]) else {
        errors.required("spec.template", "");
        return;
    };
    pod::validate_template(template, "spec.template", errors);
    const FIELD: &str = "spec.template.spec.restartPolicy";
    match text(template, &["spec", "restartPolicy"]) {
        "Always" | "" => errors.required(FIELD, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if at(job, &["spec", "podFailurePolicy"]).is_some() => errors.invalid(
            FIELD,
            "OnFailure",
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        "OnFailure" | "Never" => {}
        other => errors.not_supported(FIELD, other, &["OnFailure", "Never"]),
    }
}

/// The selector: a generated one is as it was generated, one's own selects the template.
fn chosen(object: &Value, errors: &mut Errors) {
    let Some(selector) = at(object, &["spec", "selector"]) else {
        errors.required("spec.selector", "");
        return;
    };
    selector::validate(selector, "spec.selector", errors);
    let labels = at(object, &["spec", "template", "metadata", "labels"]);
    if flag(object, &["spec", "manualSelector"]) {
        if !selector::is_empty(selector) && !selector::matches(selector, labels) {
            errors.invalid(
                "spec.template.metadata.labels",
                labels.cloned().unwrap_or_else(|| json!({})),
                "`selector` does not match template `labels`",
            );
        }
        return;
    }
    let uid = text(object, &["metadata", "uid"]);
    let generated = strings(selector, &["matchLabels"])
        .any(|(key, value)| (key == CONTROLLER_UID || key == "controller-uid") && value == uid);
    if !generated {
        errors.invalid(
            "spec.selector",
            selector.clone(),
            "`selector` not auto-generated",
        );
    }
    for (key, value) in own_labels(object) {
        if text(object, &["spec", "template", "metadata", "labels", key]) != value {
            errors.invalid(
                "spec.template.metadata.labels",
                labels.cloned().unwrap_or_default(),
                &format!("must have label {key} with value {value}"),
            );
        }
    }
}

/// An Indexed Job's pods are named and called after it and their index.
fn names_of_pods(object: &Value, errors: &mut Errors) {
    if text(object, &["spec", "completionMode"]) != "Indexed" {
        return;
    }
    let last = integer(object, &["spec", "completions"])
        .unwrap_or(1)
        .max(1)
        - 1;
    let name = text(object, &["metadata", "name"]);
    let longest = format!("{name}-{last}");
    for message in super::names::dns_label(&longest) {
        errors.invalid(
            "metadata.name",
            name,
            &format!("will not able to create pod with invalid DNS label: {longest}: {message}"),
        );
    }
}
