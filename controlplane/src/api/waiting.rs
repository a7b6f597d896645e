//! What a member answers while it cannot serve yet: it has begun, and no majority of the members answers it. It says so
//! to everybody at once, instead of refusing connections, and gives what it has to the administrator, who is known by a
//! certificate alone: tokens and roles are in the store.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};

use super::request::Query;
use super::{Metrics, discovery, health, members, respond};
use crate::auth::{MASTERS, User};
use crate::registry::{ApiError, Registry};
use crate::store::Freshness;

#[derive(Debug)]
pub(crate) struct Waiting {
    registry: Registry,
    metrics: Arc<Metrics>,
}

impl Waiting {
    pub(crate) fn new(registry: &Registry, metrics: &Arc<Metrics>) -> Self {
        Self {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
        }
    }

    pub(super) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let user = request.extensions().get::<User>();
        // Who acts as somebody else wants to be judged as them.
        let acts = request.headers().contains_key("impersonate-user");
        let administers = user.is_some_and(|user| user.is_in(MASTERS)) && !acts;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let query = Query::parse(request.uri().query().unwrap_or(""));
        let path = request.uri().path().trim_end_matches('/');
        let mut response = match path {
            "/version" if reads => respond::value(StatusCode::OK, &discovery::version()),
            "/healthz" | "/livez" | "/readyz" if reads => {
                health::report(&path[1..], &checks(path), query.flag("verbose"))
            }
            "/metrics" if reads && administers => self.metrics.scrape(&self.registry),
            "/waggle/v1/snapshot" if reads && administers && query.flag("stale") => {
                let store = self.registry.store();
                members::snapshot(store, Freshness::Local)
                    .await
                    .unwrap_or_else(|error| respond::error(&error))
            }
            _ => respond::error(&self.refusal(user.is_some())),
        };
        if *request.method() == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        response
    }

    /// Addresses of members are not for everybody.
    fn refusal(&self, is_known: bool) -> ApiError {
        let mut why = "no leader: this member waits for a majority of the members".to_owned();
        let said = self.registry.store().waits_for();
        if is_known && !said.is_empty() {
            why = format!("{why} ({said})");
        }
        ApiError::unavailable(why)
    }
}

fn checks(path: &str) -> Vec<health::Check<'static>> {
    let mut checks = vec![health::Check::of("ping", true)];
    if path == "/readyz" {
        let quorum = health::Check::of("quorum", false);
        checks.push(quorum.because("this member waits for a majority of the members"));
    }
    checks
}
