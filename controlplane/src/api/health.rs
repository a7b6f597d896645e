//! `/healthz`, `/livez` and `/readyz`: open to everybody, and saying no more than each check's name, and of too few
//! members that it is they who are missing.

use std::time::Duration;

use axum::body::Body;
use http::{Response, StatusCode};

use super::request::Query;
use super::{Api, respond};

/// How long the others may take to confirm that this member is up to date.
const PATIENCE: Duration = Duration::from_secs(2);

impl Api {
    /// `one` asks for a single check by its name.
    pub(super) async fn health(
        &self,
        endpoint: &str,
        one: Option<&str>,
        query: &Query,
    ) -> Response<Body> {
        let mut checks = vec![Check::of("ping", true)];
        if endpoint != "livez" {
            let written = self.registry.store().revision() > 0;
            checks.push(Check::of("store", written));
        }
        if endpoint == "readyz" {
            // Those who ask at the same time share one round.
            let confirmed = self.registry.store().confirm();
            let confirmed = tokio::time::timeout(PATIENCE, confirmed).await;
            let quorum = Check::of("quorum", matches!(confirmed, Ok(Ok(()))));
            checks.push(quorum.because("no majority of the members answers this one"));
            checks.push(Check::of("shutdown", !self.stopping.is_cancelled()));
        }
        if let Some(name) = one {
            return match checks.iter().find(|check| check.name == name) {
                Some(Check { ok: true, .. }) => respond::text(StatusCode::OK, "ok"),
                Some(_) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, "not ok"),
                None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            };
        }
        checks.retain(|check| query.get("exclude") != check.name);
        report(endpoint, &checks, query.flag("verbose"))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Check<'a> {
    name: &'a str,
    ok: bool,
    /// Why it fails, where everybody may know.
    why: &'a str,
}

impl<'a> Check<'a> {
    pub(super) fn of(name: &'a str, ok: bool) -> Self {
        Self {
            name,
            ok,
            why: "reason withheld",
        }
    }

    pub(super) fn because(self, why: &'a str) -> Self {
        Self { why, ..self }
    }
}

pub(super) fn report(endpoint: &str, checks: &[Check<'_>], verbose: bool) -> Response<Body> {
    let healthy = checks.iter().all(|check| check.ok);
    if healthy && !verbose {
        return respond::text(StatusCode::OK, "ok");
    }
    let mut text = String::new();
    for Check { name, ok, why } in checks {
        text.push_str(&match ok {
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} failed: {why}\n"),
        });
    }
    text.push_str(&format!(
        "{endpoint} check {}\n",
        if healthy { "passed" } else { "failed" }
    ));
    let status = if healthy {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    respond::text(status, text)
}
