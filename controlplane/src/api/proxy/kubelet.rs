//! Paths of a node that lead into its pods, as a kubelet serves them (`nodes/NAME/proxy/…`):
//!
//! ```text
//!   GET  /containerLogs/NAMESPACE/POD/CONTAINER
//!   POST /run/NAMESPACE/POD[/UID]/CONTAINER?cmd=…
//!        /exec, /attach/NAMESPACE/POD[/UID]/CONTAINER, /portForward/NAMESPACE/POD[/UID]
//! ```
//! Who may use the node's proxy may do this with any pod of the node, as with a kubelet; but what runs in a pod takes
//! more than `get`, whatever the method.

use axum::body::Body;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::stream_request::Kind;
use proto::node::v1::{ExecRequest, StreamRequest};
use serde_json::Value;

use crate::api::logs::container;
use crate::api::read::Subject;
use crate::api::remote::status::Outcome;
use crate::api::remote::{Options, Streams, accepted};
use crate::api::request::Query;
use crate::api::{Api, body, respond};
use crate::auth::User;
use crate::kinds;
use crate::nodestream::NodeStream;
use crate::registry::{ApiError, object};
use crate::store::Freshness;

/// What a command may say before it is cut off: the answer is made of one piece.
const MOST_OUTPUT: usize = 16 << 20;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const STATUS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Logs,
    Run,
    Exec,
    Attach,
    PortForward,
}

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    what: What,
    namespace: &'a str,
    pod: &'a str,
    /// Empty: whichever has the name.
    uid: &'a str,
    container: &'a str,
}

/// `None` of a path that is something else. Pure.
pub(super) fn parse(path: &str) -> Option<Asked<'_>> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (first, rest) = segments.split_first()?;
    let what = match *first {
        "containerLogs" => What::Logs,
        "run" => What::Run,
        "exec" => What::Exec,
        "attach" => What::Attach,
        "portForward" => What::PortForward,
        _ => return None,
    };
    let (namespace, pod, uid, container) = match (what, rest) {
        (What::PortForward, [namespace, pod]) => (namespace, pod, &"", &""),
        (What::PortForward, [namespace, pod, uid]) => (namespace, pod, uid, &""),
        (What::PortForward, _) => return None,
        (_, [namespace, pod, container]) => (namespace, pod, &"", container),
        (What::Run | What::Exec | What::Attach, [namespace, pod, uid, container]) => {
            (namespace, pod, uid, container)
        }
        _ => return None,
    };
    let named = [namespace, pod].into_iter().all(|part| !part.is_empty());
    named.then_some(Asked {
        what,
        namespace,
        pod,
        uid,
        container,
    })
}

/// A kubelet's own names for the streams of a command.
fn options(query: &Query, container: &str) -> Result<Options, ApiError> {
    let on = |name: &str| query.get(name) == "1" || query.get(name) == "true";
    let options = Options {
        streams: Streams {
            stdin: on("input"),
            stdout: on("output"),
            stderr: on("error"),
            tty: on("tty"),
        },
        container: container.to_owned(),
        command: query.all("command").map(str::to_owned).collect(),
    };
    options.checked()
}

/// The same of the ports of a connection.
fn ports(query: &Query) -> Query {
    let mut ports = form_urlencoded::Serializer::new(String::new());
    ports.extend_pairs(query.all("port").map(|port| ("ports", port)));
    Query::parse(&ports.finish())
}

impl Api {
    pub(super) async fn in_pod_of(
        &self,
        node: &str,
        user: &User,
        parts: &Parts,
        body: Body,
        subject: Subject<'_>,
        asked: &Asked<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let allowed: &[Method] = match asked.what {
            What::Logs => &[Method::GET],
            What::Run => &[Method::POST],
            _ => &[Method::GET, Method::POST],
        };
        if !allowed.contains(&parts.method) {
            return Err(ApiError::method_not_allowed());
        }
        if asked.what != What::Logs && parts.method != Method::POST {
            self.check_create(user, subject)?;
        }
        let pod = self.pod_of(node, asked).await?;
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        match asked.what {
            What::Logs => {
                let container = container(&pod, asked.container)?;
                self.log_of(&pod, container, &query).await
            }
            What::Run => self.run_in(&pod, node, asked.container, &query, body).await,
            What::Exec | What::Attach => {
                let options = options(&query, asked.container)?;
                let exec = asked.what == What::Exec;
                self.converse(parts, &pod, node, options, exec).await
            }
            What::PortForward => {
                let query = ports(&query);
                self.forward(parts, &pod, node.to_owned(), &query).await
            }
        }
    }

    /// A pod of another node is none.
    async fn pod_of(&self, node: &str, asked: &Asked<'_>) -> Result<Value, ApiError> {
        let missing = || {
            let message = format!("pod \"{}\" does not exist", asked.pod);
            ApiError::new(404, "NotFound", message)
        };
        let kind = kinds::by_plural("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
        let found = self
            .registry
            .get(kind, asked.namespace, asked.pod, Freshness::Linearizable)
            .await;
        let pod = match found {
            Ok(kv) => object::decode(&kv),
            Err(error) if error.is_not_found() => return Err(missing()),
            Err(error) => return Err(error),
        };
        let here = pod["spec"]["nodeName"] == node;
        if here && (asked.uid.is_empty() || asked.uid == object::uid(&pod)) {
            Ok(pod)
        } else {
            Err(missing())
        }
    }

    /// A command that is waited for; the answer is what it said.
    async fn run_in(
        &self,
        pod: &Value,
        node: &str,
        wanted: &str,
        query: &Query,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let form = body::read(body).await?;
        let form = Query::parse(&String::from_utf8_lossy(&form));
        let text = [query, &form]
            .into_iter()
            .map(|it| it.get("cmd"))
            .find(|it| !it.is_empty())
            .ok_or_else(|| ApiError::bad_request("you must specify a command: cmd"))?;
        let command: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let request = StreamRequest {
            server: String::new(),
            id: String::new(),
            namespace: object::namespace(pod).to_owned(),
            pod: object::name(pod).to_owned(),
            container: container(pod, wanted)?,
            kind: Some(Kind::Exec(ExecRequest {
                command,
                stdin: false,
                stdout: true,
                stderr: true,
                tty: false,
            })),
        };
        let mut stream = self.streams.open(node, request).await?;
        if let Err(refused) = accepted(&mut stream).await {
            return refused.response();
        }
        tokio::select! {
            said = heard(&mut stream) => answer(said, text),
            () = self.stopping.cancelled() => Err(ApiError::internal("the server stops")),
        }
    }
}

/// What a command said on both outputs, and how it ended.
#[derive(Debug, Default)]
struct Heard {
    output: Vec<u8>,
    errors: Vec<u8>,
    outcome: Outcome,
}

async fn heard(stream: &mut NodeStream) -> Heard {
    let mut heard = Heard::default();
    while let Some(frame) = stream.from_node.recv().await {
        let Some(Frame::Data(data)) = frame.frame else {
            continue;
        };
        let room = MOST_OUTPUT.saturating_sub(heard.output.len() + heard.errors.len());
        let some = &data.data[..data.data.len().min(room)];
        match data.channel {
            STDOUT => heard.output.extend_from_slice(some),
            STDERR => heard.errors.extend_from_slice(some),
            STATUS => heard.outcome.push(&data.data),
            _ => {}
        }
    }
    heard
}

/// Pure.
fn answer(heard: Heard, command: &str) -> Result<Response<Body>, ApiError> {
    let status = heard.outcome.value();
    if status["status"] == "Success" {
        let output = [heard.output, heard.errors].concat();
        let mut response = respond::text(StatusCode::OK, Body::from(output));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        return Ok(response);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes
        .into_iter()
        .flatten()
        .find(|it| it["reason"] == "ExitCode");
    Err(ApiError::internal(match code {
        Some(code) => format!(
            "command '{command}' exited with {}: {}",
            code["message"].as_str().unwrap_or(""),
            String::from_utf8_lossy(&heard.errors)
        ),
        None => status["message"].as_str().unwrap_or("").to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn paths_are_those_of_a_kubelet() {
        let asked = |what, uid, container| {
            Some(Asked {
                what,
                namespace: "ns",
                pod: "p",
                uid,
                container,
            })
        };
        for (path, expected) in [
            ("/containerLogs/ns/p/c", asked(What::Logs, "", "c")),
            ("/run/ns/p/c", asked(What::Run, "", "c")),
            ("/run/ns/p/u/c", asked(What::Run, "u", "c")),
            ("/exec/ns/p/u/c", asked(What::Exec, "u", "c")),
            ("/attach/ns/p/c/", asked(What::Attach, "", "c")),
            ("/portForward/ns/p", asked(What::PortForward, "", "")),
            ("/portForward/ns/p/u", asked(What::PortForward, "u", "")),
            ("/containerLogs/ns/p", None),
            ("/containerLogs/ns/p/u/c", None),
            ("/run/ns", None),
            ("/run//p/c", None),
            ("/portForward/ns", None),
            ("/logs/messages/x/y", None),
            ("/", None),
        ] {
            assert_eq!(parse(path), expected, "{path}");
        }
    }

    #[test]
    fn streams_have_a_kubelets_names() {
        let query = Query::parse("command=a&command=b+c&input=1&output=1&tty=1&error=1");
        let options = options(&query, "c").unwrap();
        assert_eq!(options.command, ["a", "b c"]);
        let streams = options.streams;
        assert!(streams.stdin && streams.stdout && streams.tty && !streams.stderr);
        let none = super::options(&Query::parse("command=a"), "c").unwrap_err();
        assert_eq!(none.code(), 400);
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_what_it_said() {
        let heard = |status: &str| {
            let mut heard = Heard {
                output: b"out ".to_vec(),
                errors: b"err".to_vec(),
                ..Heard::default()
            };
            heard.outcome.push(status.as_bytes());
            heard
        };
        let well = answer(heard(r#"{"status": "Success"}"#), "x").unwrap();
        assert_eq!(well.status(), 200);
        let failed = heard(
            r#"{"status": "Failure", "message": "m", "details": {"causes": [
            {"reason": "ExitCode", "message": "3"}]}}"#,
        );
        let error = answer(failed, "x y").unwrap_err();
        assert_eq!(error.code(), 500);
        assert!(
            error
                .to_string()
                .contains("command 'x y' exited with 3: err"),
            "{error}"
        );
    }
}
