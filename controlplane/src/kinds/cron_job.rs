//! CronJob (batch/v1), and as v1beta1 for clients from before 1.25.

use serde_json::{Value, json};

use super::access::{at, fill, object_mut, text};
use super::errors::Errors;
use super::replica_set::not_negative;
use super::schedule::{self, Schedule};
use super::served_version::ServedVersion;
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, job, meta, pod, selector, table, time,
};

const V1: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.batch.v1.CronJob",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &CronJob,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::batch::v1::CronJob>();
    },
};

pub(super) static KIND: Kind = V1;

pub(super) static BETA: Kind = Kind {
    version: "v1beta1",
    strategy: &ServedVersion {
        of: &KIND,
        api_version: "batch/v1beta1",
        deprecated: true,
        to_stored: |_| {},
        to_served: |_| {},
    },
    ..V1
};

const TEMPLATE: &[&str] = &["spec", "jobTemplate"];
/// A Job's name is this and the time it was due, a dash and ten digits.
const LONGEST_NAME: usize = 52;

#[derive(Debug)]
struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        pod::default_template_at(object, &["spec", "jobTemplate", "spec", "template"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let name = text(object, &["metadata", "name"]);
        if old.is_none() && name.len() > LONGEST_NAME {
            errors.invalid("metadata.name", name, "must be no more than 52 characters");
        }
        due(object, old, &mut errors);
        for field in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            not_negative(object, field, &mut errors);
        }
        match text(object, &["spec", "concurrencyPolicy"]) {
            "" => errors.required("spec.concurrencyPolicy", ""),
            "Allow" | "Forbid" | "Replace" => {}
            other => errors.not_supported(
                "spec.concurrencyPolicy",
                other,
                &["Allow", "Forbid", "Replace"],
            ),
        }
        template(object, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Schedule", "string", "When it is due."),
            table::column("Timezone", "string", "Whose clock that is."),
            table::column("Suspend", "boolean", "Whether it is held back."),
            table::column("Active", "integer", "Jobs that run."),
            table::column("Last Schedule", "string", "Time since it was last due."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
            table::wide("Selector", "string", "Which pods belong to it."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let job = at(object, TEMPLATE).cloned().unwrap_or_default();
        let (containers, images) = table::containers(&job);
        let last = text(object, &["status", "lastScheduleTime"]);
        let suspended = at(object, &["spec", "suspend"]).and_then(Value::as_bool);
        vec![
            table::name(object),
            text(object, &["spec", "schedule"]).into(),
            table::or_none(text(object, &["spec", "timeZone"])),
            match suspended {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            }
            .into(),
            super::access::list(object, &["status", "active"])
                .len()
                .into(),
            if last.is_empty() {
                "<none>".into()
            } else {
                time::age(last, now).into()
            },
            table::age(object, now),
            containers,
            images,
            selector::shown(at(&job, &["spec", "selector"])).into(),
        ]
    }
}

fn due(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let schedule = text(object, &["spec", "schedule"]);
    let zone = at(object, &["spec", "timeZone"]).and_then(Value::as_str);
    // What was stored once may be stored again.
    let unchanged = old.is_some_and(|old| {
        text(old, &["spec", "schedule"]) == schedule
            && at(old, &["spec", "timeZone"]).and_then(Value::as_str) == zone
    });
    if unchanged {
        return;
    }
    if schedule.is_empty() {
        errors.required("spec.schedule", "");
    } else if schedule.contains("TZ") {
        errors.invalid(
            "spec.schedule",
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    } else if let Err(error) = Schedule::parse(schedule, None) {
        errors.invalid("spec.schedule", schedule, &error.to_string());
    }
    match zone {
        Some("") => errors.invalid(
            "spec.timeZone",
            "",
            "timeZone must be nil or non-empty string",
        ),
        Some(zone) if zone.eq_ignore_ascii_case("local") => errors.invalid(
            "spec.timeZone",
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ),
        zone => {
            if let Err(error) = schedule::zone(zone) {
                errors.invalid(
                    "spec.timeZone",
                    zone.unwrap_or_default(),
                    &error.to_string(),
                );
            }
        }
    }
}

fn template(object: &Value, errors: &mut Errors) {
    let Some(template) = at(object, TEMPLATE) else {
        errors.required("spec.jobTemplate", "");
        return;
    };
    job::spec(template, "spec.jobTemplate.spec", errors);
    if let Some(chosen) = at(template, &["spec", "selector"]) {
        errors.invalid(
            "spec.jobTemplate.spec.selector",
            chosen.clone(),
            "`selector` will be auto-generated",
        );
    }
    if at(template, &["spec", "manualSelector"]).and_then(Value::as_bool) == Some(true) {
        errors.not_supported(
            "spec.jobTemplate.spec.manualSelector",
            "true",
            &["nil", "false"],
        );
    }
}
