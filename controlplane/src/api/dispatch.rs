//! One request from its head to its verb: who is it, may they, does the place exist, which verb is it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::audit::Record;
use super::negotiate;
use super::openapi::Others;
use super::read::{Subject, Wish};
use super::request::{Place, Query, Target, attributes, parse_path};
use super::write::Write;
use super::{Api, body, component_status, respond};
use crate::auth::{Authorizer as _, User};
use crate::kinds::{KindRef, Scope};
use crate::registry::judges::Remarks;
use crate::registry::{ApiError, object};

/// How long anything but a watch or a log stream may take.
const DEADLINE: Duration = Duration::from_secs(60);
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// What is not Kubernetes' is below this.
const WAGGLE: [&str; 2] = ["waggle", "v1"];

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

impl Api {
    /// Never fails: every error is an answer.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let record = self.audit.as_ref().map(|audit| audit.record(&parts));
        if let Some(record) = &record {
            parts.extensions.insert(record.clone());
        }
        let place = parse_path(parts.uri.path());
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let (verb, resource) = match &place {
            Some(Place::Resource(target)) => (
                super::request::verb(&parts.method, target, &query),
                self.metric_resource(target),
            ),
            _ => ("", String::new()),
        };
        let _inflight = self.metrics.inflight();
        // What is proxied takes its own time, and has its own form.
        let extension = place
            .as_ref()
            .and_then(|place| self.aggregator.answers(&self.registry, place));
        let proxied = extension.is_some()
            || matches!(&place, Some(Place::Resource(target)) if target.subresource == "proxy");
        let deadline = if proxied { FOREVER } else { DEADLINE };
        let result = match &place {
            Some(place) => {
                let routed = self.route(&parts, body, place, &query, extension);
                tokio::time::timeout(deadline, routed)
                    .await
                    .unwrap_or_else(|_| {
                        Err(ApiError::timeout("the request did not complete in time"))
                    })
            }
            None => Err(ApiError::no_such_resource()),
        };
        let mut response = result.unwrap_or_else(|error| respond::error(&error));
        if let Some(record) = &record {
            let streams = verb == "watch" || place.as_ref().is_some_and(streams);
            response = record.answered(response, streams).await;
        }
        if query.flag("pretty") && verb != "watch" && !proxied {
            response = super::pretty::indented(response).await;
        }
        if parts.method == Method::HEAD {
            // HTTP/2 has no rule that drops the body: a client takes one for a broken stream.
            *response.body_mut() = Body::empty();
        }
        let elapsed = started.elapsed();
        self.metrics
            .observe(verb, &resource, response.status().as_u16(), elapsed);
        tracing::debug!(
            method = %parts.method,
            path = parts.uri.path(),
            code = response.status().as_u16(),
            micros = elapsed.as_micros(),
            "request"
        );
        response
    }

    async fn route(
        &self,
        parts: &Parts,
        body: Body,
        place: &Place,
        query: &Query,
        extension: Option<Arc<APIService>>,
    ) -> Result<Response<Body>, ApiError> {
        let real = self.authenticated(parts).await?;
        let wanted = attributes(&parts.method, parts.uri.path(), place, query);
        let record = parts.extensions.get::<Record>();
        let impersonated = self.impersonated(real.clone(), &parts.headers);
        if let Some(record) = record {
            let user = impersonated.as_ref().unwrap_or(&real);
            record.known(&real, user, &wanted).await;
        }
        let user = impersonated?;
        // Given back when the head of the answer is there: a watch or a log does not keep it.
        let _seat = self.flow.admit(&user, &wanted).await?;
        let allowed = self.authorizer.allows(&user, &wanted);
        if let Some(record) = record {
            let reason = self.authorizer.reason(&user, &wanted);
            record.decided(allowed, reason.unwrap_or_default());
        }
        if !allowed {
            if user.is_anonymous() {
                return Err(ApiError::unauthorized());
            }
            return Err(ApiError::forbidden(
                &wanted.group,
                &wanted.resource,
                &wanted.name,
                &wanted.refusal(&user),
            ));
        }
        if let Some(extension) = extension {
            return self.aggregate(&user, parts, body, &extension).await;
        }
        match place {
            Place::Path(segments) if segments.starts_with(&WAGGLE.map(str::to_owned)) => {
                let rest: Vec<&str> = segments[WAGGLE.len()..]
                    .iter()
                    .map(String::as_str)
                    .collect();
                self.waggle(parts, body, &rest).await
            }
            Place::Path(segments) => self.path(parts, segments, query).await,
            Place::Resource(target) => match super::review::review(target) {
                Some(review) if parts.method == Method::POST => {
                    self.review(review, &user, target, parts, body, query).await
                }
                Some(_) => Err(ApiError::method_not_allowed()),
                None => self.resource(&user, parts, body, target, query).await,
            },
        }
    }

    /// What is no resource.
    async fn path(
        &self,
        parts: &Parts,
        segments: &[String],
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["version"] => Ok(respond::value(StatusCode::OK, &super::discovery::version())),
            ["healthz" | "livez" | "readyz", rest @ ..] => {
                let one = rest.first().copied();
                Ok(self.health(segments[0], one, query).await)
            }
            [".well-known", "openid-configuration"] => Ok(self.openid_configuration(host(parts))),
            ["openid", "v1", "jwks"] => Ok(self.jwks()),
            ["metrics"] => Ok(self.metrics.scrape(&self.registry)),
            [] | ["api" | "apis", ..] => {
                let extended = match segments.as_slice() {
                    [] | ["apis", ..] => {
                        let whole = super::discovery::is_whole(&segments, &parts.headers);
                        self.aggregator.extended(&self.registry, whole).await
                    }
                    _ => Vec::new(),
                };
                let serve = || {
                    super::discovery::serve(&self.registry, &extended, &segments, &parts.headers)
                };
                let found = match serve() {
                    // It may have been defined a moment ago, as for requests about its objects.
                    None if segments.get(1).is_some_and(|group| group.contains('.')) => {
                        self.registry.definitions_known().await;
                        serve()
                    }
                    found => found,
                };
                found.ok_or_else(ApiError::no_such_resource)?
            }
            ["openapi", rest @ ..] => {
                let mut others = Others::default();
                match rest {
                    ["v2"] => others.v2 = self.aggregator.described(&self.registry).await,
                    ["v3"] => others.v3 = self.aggregator.v3_documents(&self.registry).await,
                    _ => {}
                }
                super::openapi::serve(&self.registry, &others, rest, &parts.headers)
                    .ok_or_else(ApiError::no_such_resource)?
            }
            _ => Err(ApiError::no_such_resource()),
        }
    }

    async fn resource(
        &self,
        user: &User,
        parts: &Parts,
        body: Body,
        target: &Target,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        if target.group == super::usage::GROUP {
            let wish = wish(parts)?;
            return self.usage(&parts.method, target, query, wish).await;
        }
        if (target.group.as_str(), target.resource.as_str()) == ("", component_status::PLURAL) {
            let wish = wish(parts)?;
            return self
                .component_status(&parts.method, target, query, wish)
                .await;
        }
        if (target.group.as_str(), target.resource.as_str()) == ("", "bindings") {
            return self.binding(user, parts, body, target, query).await;
        }
        let handle = &self.kind(target).await?;
        let kind = &handle.get();
        let subject = Subject {
            handle,
            kind,
            namespace: &target.namespace,
            name: &target.name,
            subresource: &target.subresource,
        };
        if (kind.plural, subject.subresource) == ("pods", "log") {
            return match parts.method {
                Method::GET => Box::pin(self.logs(parts, subject, query)).await,
                _ => Err(ApiError::method_not_allowed()),
            };
        }
        if subject.subresource == "proxy" {
            let path = super::request::proxied_path(parts.uri.path());
            let options = serde_json::json!({"path": path.trim_start_matches('/')});
            Box::pin(self.admit_connect(user, subject, options)).await?;
            return Box::pin(self.proxy(user, parts, body, subject, target)).await;
        }
        if kind.plural == "pods" {
            match subject.subresource {
                "exec" | "attach" => return Box::pin(self.remote(user, parts, subject)).await,
                "portforward" => {
                    return Box::pin(self.port_forward(user, parts, subject, query)).await;
                }
                _ => {}
            }
        }
        check_method(&parts.method, subject)?;
        let wish = wish(parts)?;
        match super::request::verb(&parts.method, target, query) {
            "get" => {
                negotiate::of_one(header(&parts.headers, &ACCEPT))?;
                return self.get(subject, query, wish).await;
            }
            "list" => {
                negotiate::of_list(header(&parts.headers, &ACCEPT))?;
                return Box::pin(self.list(subject, query, wish)).await;
            }
            "watch" => return Box::pin(self.watch(subject, query, wish)).await,
            _ => {}
        }
        let verb = super::request::verb(&parts.method, target, query);
        let write = Write {
            options: match verb {
                "create" => "CreateOptions",
                "update" => "UpdateOptions",
                "patch" => "PatchOptions",
                _ => "DeleteOptions",
            },
            guard: self.guard(user, subject),
            user,
            subject,
            query,
            headers: &parts.headers,
            body: body::read(body).await?,
            wish,
            remarks: Remarks::default(),
        };
        if let Some(record) = parts.extensions.get::<Record>() {
            record.request(&write.body, &write.remarks);
        }
        if (kind.plural, subject.subresource) == ("serviceaccounts", "token") {
            return Box::pin(self.token(&write, user)).await;
        }
        // Each way has its own place in memory: a request would have room for the largest of them otherwise.
        match verb {
            "create" => Box::pin(self.create(write)).await,
            "update" => Box::pin(self.update(write)).await,
            "patch" => Box::pin(self.patch(write)).await,
            "delete" => Box::pin(self.delete(write)).await,
            "deletecollection" => Box::pin(self.delete_collection(write)).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }
}

impl Api {
    /// A binding that names its pod itself: `pods/binding` with the name in the body.
    async fn binding(
        &self,
        user: &User,
        parts: &Parts,
        body: Body,
        target: &Target,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        let place = (target.name.as_str(), target.subresource.as_str());
        if target.version != "v1" || target.namespace.is_empty() || place != ("", "") {
            return Err(ApiError::no_such_resource());
        }
        if parts.method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        let bytes = body::read(body).await?;
        let encoding = negotiate::content(header(&parts.headers, &CONTENT_TYPE))?;
        let binding = body::parse(&bytes, encoding)?;
        let name = object::name(&binding);
        if name.is_empty() {
            return Err(ApiError::bad_request("name must be provided"));
        }
        let target = Target {
            resource: "pods".to_owned(),
            name: name.to_owned(),
            subresource: "binding".to_owned(),
            ..target.clone()
        };
        Box::pin(self.resource(user, parts, Body::from(bytes), &target, query)).await
    }
}

/// Whether the answer to a request goes on for as long as somebody wants it to.
pub(super) fn goes_on(method: &Method, uri: &http::Uri) -> bool {
    let Some(place) = parse_path(uri.path()) else {
        return false;
    };
    let watches = |target: &Target| {
        let query = Query::parse(uri.query().unwrap_or(""));
        super::request::verb(method, target, &query) == "watch"
    };
    streams(&place) || matches!(&place, Place::Resource(target) if watches(target))
}

fn streams(place: &Place) -> bool {
    const LONG: &[&str] = &["attach", "exec", "log", "portforward", "proxy"];
    matches!(place, Place::Resource(target) if {
        let first = target.subresource.split('/').next().unwrap_or_default();
        LONG.contains(&first)
    })
}

/// What the client calls this server.
fn host(parts: &Parts) -> Option<&str> {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let header = || {
        parts
            .headers
            .get(HOST)
            .and_then(|value| value.to_str().ok())
    };
    authority.or_else(header)
}

/// The form that the client wants the answer in.
fn wish(parts: &Parts) -> Result<Wish, ApiError> {
    Ok(Wish {
        format: negotiate::accept(header(&parts.headers, &ACCEPT))?,
        gzip: negotiate::accepts_gzip(header(&parts.headers, &ACCEPT_ENCODING)),
    })
}

impl Api {
    /// The kind behind the path, if the path can be about it at all.
    async fn kind(&self, target: &Target) -> Result<KindRef, ApiError> {
        let find = || {
            self.registry
                .kind(&target.group, &target.version, &target.resource)
        };
        let known = match find() {
            // It may have been defined a moment ago. Groups of users have a dot in their name.
            None if target.group.contains('.') => {
                self.registry.definitions_known().await;
                find()
            }
            known => known,
        };
        served(known.ok_or_else(ApiError::no_such_resource)?, target)
    }

    /// Label of metrics: only what is served, so that paths cannot make series.
    fn metric_resource(&self, target: &Target) -> String {
        let known = self
            .registry
            .kind(&target.group, &target.version, &target.resource);
        known.map_or_else(String::new, |_| target.resource.clone())
    }
}

fn served(handle: KindRef, target: &Target) -> Result<KindRef, ApiError> {
    let kind = handle.get();
    let misplaced = match kind.scope {
        Scope::Cluster => !target.namespace.is_empty(),
        Scope::Namespaced => target.namespace.is_empty() && !target.name.is_empty(),
    };
    let unknown =
        !target.subresource.is_empty() && !kind.subresources.contains(&target.subresource.as_str());
    if misplaced || unknown {
        return Err(ApiError::no_such_resource());
    }
    Ok(handle)
}

/// Which methods a place has.
fn check_method(method: &Method, subject: Subject<'_>) -> Result<(), ApiError> {
    let allowed: &[Method] = match (subject.subresource, subject.name.is_empty()) {
        ("", true) if subject.kind.scope == Scope::Namespaced && subject.namespace.is_empty() => {
            &[Method::GET, Method::HEAD]
        }
        ("", true) if !subject.kind.deletes_collections() => {
            &[Method::GET, Method::HEAD, Method::POST]
        }
        ("", true) => &[Method::GET, Method::HEAD, Method::POST, Method::DELETE],
        ("", false) => &[
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ],
        ("binding" | "eviction" | "token", _) => &[Method::POST],
        ("finalize", _) => &[Method::PUT],
        _ => &[Method::GET, Method::HEAD, Method::PUT, Method::PATCH],
    };
    if allowed.contains(method) {
        Ok(())
    } else {
        Err(ApiError::method_not_allowed())
    }
}
