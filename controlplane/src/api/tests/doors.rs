//! Every door that somebody without right might try: credentials, paths, headers, sizes, slowness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::auth::{Pki, Sans};

/// A connection on which anything can be sent.
pub(super) async fn raw(member: &Member) -> TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(member.controller.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(member.controller.address())
        .await
        .unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

/// What comes until the server closes, or nothing more comes for a while.
async fn answer(stream: &mut TlsStream<tokio::net::TcpStream>) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(member: &Member, path: &str, headers: &str) -> (u16, String) {
    let mut stream = raw(member).await;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = answer(&mut stream).await;
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or(0), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_headers_open_nothing() {
    let member = member().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "sesame"}});
    member
        .post("/api/v1/namespaces/default/secrets", &secret)
        .await
        .ok();
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    for path in [
        "//api/v1/namespaces/default/secrets",
        "/api//v1/namespaces/default/secrets",
        "/api/v1/namespaces/default/secrets/",
        "/api/v1/namespaces/default/secrets//s",
        "/healthz/../api/v1/namespaces/default/secrets",
        "/healthz/%2e%2e/api/v1/namespaces/default/secrets",
        "/healthz/..%2fapi/v1/namespaces/default/secrets",
        "/healthz%2f..%2fapi/v1/secrets",
        "/version/./../api/v1/secrets",
        "/%61pi/v1/namespaces/default/secrets",
        "/api/v1/namespaces/default/secrets?watch=1",
        "/api/v1/watch/namespaces/default/secrets",
        "/healthz;/api/v1/secrets",
        "/%2e/api/v1/secrets",
        "/api/v1/namespaces/default%2fsecrets",
        "/healthz\\..\\api",
        "http://localhost/api/v1/secrets",
        "/waggle/v1/status",
        "/waggle/v1/rotate/encryption-key",
        "/waggle.node.v1.NodeSync/Sync",
    ] {
        let (code, text) = ask(&member, path, "").await;
        assert!(
            matches!(code, 400 | 401 | 403 | 404 | 405 | 415) || text.contains("grpc-status: 16"),
            "{path}: {text}"
        );
        assert!(!text.contains("c2VzYW1l"), "{path}: {text}");
    }
    for header in [
        "X-Remote-User: kubernetes-admin\r\nX-Remote-Group: system:masters\r\n",
        "X-Forwarded-User: kubernetes-admin\r\n",
        "X-Forwarded-Client-Cert: Subject=\"CN=kubernetes-admin,O=system:masters\"\r\n",
        "Impersonate-User: kubernetes-admin\r\nImpersonate-Group: system:masters\r\n",
        "X-Original-URL: /healthz\r\nX-Rewrite-URL: /healthz\r\n",
        "X-HTTP-Method-Override: OPTIONS\r\n",
        "Authorization: Basic YWRtaW46YWRtaW4=\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer null\r\n",
        "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ.\r\n",
        "Authorization: Bearer aaaaaa.bbbbbbbbbbbbbbbb\r\n",
        "Cookie: user=kubernetes-admin\r\n",
    ] {
        let (code, text) = ask(&member, SECRETS, header).await;
        assert_eq!(code, 401, "{header}: {text}");
        assert!(
            text.to_lowercase().contains("www-authenticate: bearer"),
            "{text}"
        );
        assert!(text.contains("\"reason\":\"Unauthorized\""), "{text}");
    }
    let (code, _) = ask(&member, "/healthz", "").await;
    assert_eq!(code, 200);
    member.controller.shutdown().await;
}

/// Certificates by the member's own CA, made elsewhere.
fn pki_of(member: &Member) -> Pki {
    let copy = tempfile::tempdir().unwrap();
    for file in ["ca.crt", "ca.key"] {
        std::fs::copy(
            member.dir.path().join("pki").join(file),
            copy.path().join(file),
        )
        .unwrap();
    }
    let mut sans = Sans::default();
    sans.add("nowhere");
    Pki::open(copy.path(), &sans, jiff::Timestamp::now()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_have_ended_or_are_of_others_open_nothing() {
    let member = member().await;
    let pki = pki_of(&member);
    let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 400);
    let (certificate, key) =
        pki.issue_client_at("kubernetes-admin", Some("system:masters"), long_ago);
    let expired = super::who::with(&member.controller, &certificate, &key).await;
    let request = http::Request::get("/version")
        .body(kube::client::Body::empty())
        .unwrap();
    assert!(expired.send(request).await.is_err(), "TLS refuses it");

    let (certificate, key) = pki.issue_client("eve", None);
    let eve = super::who::with(&member.controller, &certificate, &key).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for headers in [
        &[("impersonate-user", "kubernetes-admin")][..],
        &[
            ("impersonate-user", "eve"),
            ("impersonate-group", "system:masters"),
        ],
        &[(
            "impersonate-user",
            "system:serviceaccount:kube-system:default",
        )],
        &[
            ("impersonate-user", "eve"),
            ("impersonate-extra-scopes", "all"),
        ],
        &[("impersonate-user", "eve"), ("impersonate-uid", "1")],
        &[("x-remote-user", "kubernetes-admin")],
    ] {
        let answer = send(&eve, Method::GET, secrets, headers, "").await;
        assert_eq!(
            (answer.code, answer.reason()),
            (403, "Forbidden"),
            "{headers:?}"
        );
    }
    let alone = [("impersonate-group", "system:masters")];
    assert_eq!(send(&eve, Method::GET, secrets, &alone, "").await.code, 400);

    // A node is itself and nobody else, whatever its certificate lacks.
    let (certificate, key) = pki.issue_client("system:node:n1", Some("people"));
    let no_node = super::who::with(&member.controller, &certificate, &key).await;
    let own = send(&no_node, Method::GET, "/api/v1/nodes/n1", &[], "").await;
    assert_eq!(own.code, 403);
    let node = member.controller.issue_node_identity("n1").unwrap();
    let node = super::who::certified(&member.controller, &node).await;
    let other = json!({"metadata": {"name": "n2"}}).to_string();
    for (method, path) in [
        (Method::PUT, "/api/v1/nodes/n2/status"),
        (Method::DELETE, "/api/v1/nodes/n1"),
        (Method::GET, "/api/v1/secrets"),
        (Method::POST, "/api/v1/nodes"),
        (Method::GET, "/api/v1/pods"),
    ] {
        let answer = send(&node, method, path, &[JSON], other.clone()).await;
        assert_eq!(answer.code, 403, "{path}");
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_let_go() {
    let member = member().await;
    let mut deaf = raw(&member).await;
    let requests = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64);
    // Answers wait where nobody takes them, until requests wait too.
    let ended = async { while deaf.write_all(&requests).await.is_ok() {} };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    assert!(ended.is_ok(), "the connection is kept");
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_and_the_large_are_let_go() {
    let member = member().await;
    // A head that does not come to its end.
    let mut slow = raw(&member).await;
    let begun = Instant::now();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let text = answer(&mut slow).await;
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(15));
    // A head that is too large.
    let mut large = raw(&member).await;
    let padding = "x".repeat(300 << 10);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: {padding}\r\n\r\n");
    let _ = large.write_all(head.as_bytes()).await;
    let text = answer(&mut large).await;
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 431"),
        "{text}"
    );
    // A handshake that does not begin.
    let mut silent = tokio::net::TcpStream::connect(member.controller.address())
        .await
        .unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(15), silent.read_to_end(&mut bytes));
    assert!(ended.await.is_ok(), "it is closed");
    // Nobody says which HTTP it is, though the handshake is done.
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut silent = raw(&member).await;
        silent.write_all(begun).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(15), silent.read_to_end(&mut bytes));
        assert!(ended.await.is_ok(), "it is closed");
    }
    // A body that does not come: who may not write learns so at once.
    let mut body = raw(&member).await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: \
                application/json\r\nContent-Length: 100\r\n\r\n{";
    body.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 64];
    let count = tokio::time::timeout(Duration::from_secs(10), body.read(&mut first)).await;
    let count = count.expect("an answer in time").unwrap();
    assert!(String::from_utf8_lossy(&first[..count]).starts_with("HTTP/1.1 401"));
    // The others are served as ever.
    assert_eq!(member.get("/healthz").await.code, 200);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_cannot_be_read_are_answered_with_a_status() {
    let member = member().await;
    let long = format!("/{}", "a".repeat(100 * 1024));
    for (path, headers, wanted, reason) in [
        ("/api/v1/pods?labelSelector=a>1", "", 400, "BadRequest"),
        ("/version", "no colon\r\n", 400, "BadRequest"),
        (&long, "", 414, "RequestURITooLong"),
    ] {
        let (code, text) = ask(&member, path, headers).await;
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let status: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (code, &status["reason"]),
            (wanted, &reason.into()),
            "{text}"
        );
        assert_eq!(status["kind"], "Status");
    }
    // Also behind an answer of our own on the same connection.
    let mut stream = raw(&member).await;
    let both = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut first = vec![0; 4096];
    let read = stream.read(&mut first).await.unwrap();
    assert!(first[..read].starts_with(b"HTTP/1.1 200 "));
    let wrong = "GET /<version> HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(wrong.as_bytes()).await.unwrap();
    let text = answer(&mut stream).await;
    assert!(text.contains("\"reason\":\"BadRequest\""), "{text}");
    member.controller.shutdown().await;
}
