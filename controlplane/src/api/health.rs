//! `/healthz`, `/livez` and `/readyz`: open to everybody, and saying no more than each check's name.

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
        let mut checks = vec![("ping", true)];
        if endpoint != "livez" {
            checks.push(("store", self.registry.store().revision() > 0));
        }
        if endpoint == "readyz" {
            // Those who ask at the same time share one round.
            let confirmed = self.registry.store().confirm();
            let confirmed = tokio::time::timeout(PATIENCE, confirmed).await;
            checks.push(("quorum", matches!(confirmed, Ok(Ok(())))));
            checks.push(("shutdown", !self.stopping.is_cancelled()));
        }
        if let Some(name) = one {
            return match checks.iter().find(|(known, _)| *known == name) {
                Some((_, true)) => respond::text(StatusCode::OK, "ok"),
                Some((_, false)) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, "not ok"),
                None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            };
        }
        checks.retain(|(name, _)| query.get("exclude") != *name);
        report(endpoint, &checks, query.flag("verbose"))
    }
}

fn report(endpoint: &str, checks: &[(&str, bool)], verbose: bool) -> Response<Body> {
    let healthy = checks.iter().all(|(_, ok)| *ok);
    if healthy && !verbose {
        return respond::text(StatusCode::OK, "ok");
    }
    let mut text = String::new();
    for (name, ok) in checks {
        text.push_str(&match ok {
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} failed: reason withheld\n"),
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
