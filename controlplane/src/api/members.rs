//! `/waggle/v1/…`: the members of the control plane, and what is done with the store as a whole. No kinds: none
//! of it is an object that a watch would show.
//!
//! | method, path | what |
//! |---|---|
//! | `GET status` | the members, and how far each node is (`cluster_status.rs`) |
//! | `POST members` | a new member asks to be one |
//! | `DELETE members/NAME-OR-ID` | a member leaves |
//! | `GET snapshot` | everything, as a file; with `?stale=true` what this member has, also without a majority |
//! | `POST compact` | forgets history |
//! | `POST defragment` | this member gives space on its disk back |

use axum::body::Body;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::request::Query;
use super::{Api, body, respond};
use crate::registry::ApiError;
use crate::store::{Change, Compare, Freshness, Node, Op, Store, Txn, TxnOutcome};

/// The ids that members have had: none is used twice.
const IDS: &str = "/waggle/member-ids";

/// What a machine says that is to be a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    pub name: String,
    /// Where the other members reach it, host:port.
    pub peer_address: String,
    /// Where clients reach its API, host:port.
    pub api_address: String,
}

/// What a member needs to begin.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    pub id: u64,
    pub cluster: String,
    pub since: u64,
    /// The cluster's CA, with which each member signs: files of the `pki` directory, by name.
    pub files: std::collections::BTreeMap<String, String>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The history to forget.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CompactRequest {
    /// All but the present where it is not given.
    revision: Option<u64>,
}

impl Api {
    /// What is below `/waggle/v1`.
    pub(super) async fn waggle(
        &self,
        parts: &Parts,
        body: Body,
        path: &[&str],
    ) -> Result<Response<Body>, ApiError> {
        let store = self.registry.store();
        match (&parts.method, path) {
            (&Method::GET | &Method::HEAD, ["status"]) => Ok(self.cluster_status()),
            (&Method::GET, ["snapshot"]) => {
                let query = Query::parse(parts.uri.query().unwrap_or(""));
                let freshness = match query.flag("stale") {
                    true => Freshness::Local,
                    false => Freshness::Linearizable,
                };
                snapshot(store, freshness).await
            }
            (&Method::POST, ["members"]) => {
                let request: JoinRequest = read(body).await?;
                let admission = self.admit(store, request).await?;
                Ok(respond::value(StatusCode::CREATED, &json!(admission)))
            }
            (&Method::DELETE, ["members", who]) => remove(store, who).await,
            (&Method::POST, ["compact"]) => {
                let request: CompactRequest = read(body).await?;
                let revision = request.revision.unwrap_or_else(|| store.revision());
                store.compact(revision).await?;
                Ok(respond::value(
                    StatusCode::OK,
                    &json!({"revision": revision}),
                ))
            }
            (&Method::POST, ["defragment"]) => {
                let (before, after) = store.defragment().await?;
                let answer = json!({"before": before, "after": after});
                Ok(respond::value(StatusCode::OK, &answer))
            }
            (&Method::POST, ["rotate", what]) => self.rotate(what).await,
            (
                _,
                ["status" | "snapshot" | "members" | "compact" | "defragment"]
                | ["members" | "rotate", _],
            ) => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_resource()),
        }
    }

    async fn admit(&self, store: &Store, request: JoinRequest) -> Result<Admission, ApiError> {
        let node = Node {
            name: request.name,
            address: request.peer_address,
            api_address: request.api_address,
        };
        if node.address.rsplit_once(':').is_none_or(|(host, port)| {
            host.is_empty()
                || port.parse::<u16>().is_ok_and(|port| port == 0)
                || port.parse::<u16>().is_err()
        }) {
            return Err(ApiError::bad_request(format!(
                "peerAddress: {:?} is not host:port",
                node.address
            )));
        }
        // One that was admitted and never came: its machine asks again.
        let heard = store.heard();
        for member in store.members() {
            let same = member.name == node.name && member.address == node.address;
            if same && !member.votes && !heard.contains_key(&member.id) {
                store.change(&Change::Remove(member.id)).await?;
            }
        }
        let id = next_id(store).await?;
        let since = store.change(&Change::Put(id, node.clone())).await?;
        tracing::info!(
            id,
            name = node.name,
            address = node.address,
            "a member was admitted"
        );
        Ok(Admission {
            id,
            cluster: store.cluster().to_owned(),
            since,
            files: self.view.shared_files()?,
        })
    }
}

/// An id that no member has had.
async fn next_id(store: &Store) -> Result<u64, ApiError> {
    loop {
        let last = store.get(IDS, Freshness::Linearizable).await?;
        let text = last.as_ref().map(|kv| String::from_utf8_lossy(&kv.value));
        let recorded = text.and_then(|text| text.parse().ok()).unwrap_or(0u64);
        let known = store.members().iter().map(|member| member.id).max();
        let id = recorded.max(known.unwrap_or(0)) + 1;
        let txn = Txn {
            compares: vec![Compare {
                key: IDS.to_owned(),
                mod_revision: last.map_or(0, |kv| kv.mod_revision),
            }],
            ops: vec![Op::Put {
                key: IDS.to_owned(),
                value: id.to_string().into(),
            }],
        };
        if let TxnOutcome::Committed { .. } = store.txn(txn).await? {
            return Ok(id);
        }
    }
}

async fn remove(store: &Store, who: &str) -> Result<Response<Body>, ApiError> {
    let members = store.members();
    let found = members
        .iter()
        .find(|member| member.name == who || member.id.to_string() == who)
        .ok_or_else(|| ApiError::new(404, "NotFound", format!("there is no member {who:?}")))?;
    store.change(&Change::Remove(found.id)).await?;
    tracing::info!(id = found.id, name = found.name, "a member was removed");
    let gone = json!({"id": found.id, "name": found.name, "address": found.address});
    Ok(respond::value(StatusCode::OK, &gone))
}

pub(super) async fn snapshot(
    store: &Store,
    freshness: Freshness,
) -> Result<Response<Body>, ApiError> {
    let pieces = store.backup(freshness).await?;
    let stream = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = body::read(body).await?;
    let bytes = if bytes.is_empty() { "{}".into() } else { bytes };
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body of the request: {error}")))
}
