//! Probes against servers on loopback.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::pods::machine::fake::FakeSandbox;

fn target(probe: serde_json::Value, port: u16) -> Target<FakeSandbox> {
    let container = serde_json::json!({"name": "c",
        "ports": [{"name": "web", "containerPort": port}]});
    Target {
        container: serde_json::from_value(container).unwrap(),
        probe: serde_json::from_value(probe).unwrap(),
        kind: ProbeKind::Readiness,
        number: 0,
        id: "u_c_0".to_owned(),
        address: Some("127.0.0.1".parse().unwrap()),
        sandbox: FakeSandbox::alone(BTreeMap::new()),
        age: Duration::ZERO,
    }
}

/// Answers every connection with `reply`, after it has read something.
async fn server(reply: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(reply).await;
        }
    });
    port
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn http_goes_by_the_status() {
    let get = serde_json::json!({"httpGet": {"path": "healthz", "port": "web",
        "httpHeaders": [{"name": "Host", "value": "example.com"}]}});
    for (reply, well) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], true),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://other.example/\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", false),
        (b"nonsense\r\n\r\n", false),
        (b"", false),
    ] {
        let port = server(reply).await;
        let outcome = once(&target(get.clone(), port), SECOND).await;
        assert_eq!(outcome.is_ok(), well, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_redirection_to_another_host_is_well_and_told() {
    let get = serde_json::json!({"httpGet": {"port": "web"}});
    let reply = b"HTTP/1.1 302 Found\r\nlocation: http://0.0.0.0/\r\ncontent-length: 0\r\n\r\n";
    let port = server(reply).await;
    let warning = once(&target(get.clone(), port), SECOND).await.unwrap();
    assert_eq!(
        warning.as_deref(),
        Some("Probe terminated redirects, Location: http://0.0.0.0/")
    );
    let port = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(once(&target(get, port), SECOND).await, Ok(None));
}

#[tokio::test]
async fn tcp_goes_by_the_connection() {
    let probe = serde_json::json!({"tcpSocket": {"port": "web"}});
    let port = server(b"").await;
    once(&target(probe.clone(), port), SECOND).await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let error = once(&target(probe, port), SECOND).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn silence_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = serde_json::json!({"httpGet": {"port": port}});
    let error = once(&target(probe, port), Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(error.contains("deadline exceeded"), "{error}");
}

#[tokio::test]
async fn ports_by_name_that_nobody_has_are_named() {
    let probe = serde_json::json!({"tcpSocket": {"port": "metrics"}});
    let error = once(&target(probe, 80), SECOND).await.unwrap_err();
    assert!(error.contains("metrics"), "{error}");
}

/// Answers calls to the health service of gRPC as a program does that serves `good` alone.
async fn health_server(service_is_known: bool) -> u16 {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Bytes, Frame};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = move |request: http::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await?.to_bytes();
        let serving = asked.ends_with(b"good");
        let body = Bytes::from(vec![0, 0, 0, 0, 2, 8, if serving { 1 } else { 2 }]);
        let mut trailers = http::HeaderMap::new();
        let status = if service_is_known { "0" } else { "12" };
        trailers.insert("grpc-status", status.parse().unwrap());
        let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
        let frames: [Result<_, std::convert::Infallible>; 2] = frames;
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let response = http::Response::builder().header("content-type", "application/grpc");
        Ok::<_, hyper::Error>(response.body(body).unwrap())
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            let serve = hyper::server::conn::http2::Builder::new(executor)
                .serve_connection(io, hyper::service::service_fn(answer));
            tokio::spawn(serve);
        }
    });
    port
}

#[tokio::test]
async fn grpc_goes_by_what_the_health_service_says() {
    let port = health_server(true).await;
    let probe = |service: &str| serde_json::json!({"grpc": {"port": port, "service": service}});
    once(&target(probe("good"), port), SECOND).await.unwrap();
    let error = once(&target(probe("bad"), port), SECOND).await.unwrap_err();
    assert_eq!(error, "service unhealthy (responded with \"NOT_SERVING\")");
    let port = health_server(false).await;
    let probe = serde_json::json!({"grpc": {"port": port}});
    let error = once(&target(probe, port), SECOND).await.unwrap_err();
    assert!(error.contains("does not implement"), "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let probe = serde_json::json!({"grpc": {"port": port}});
    let error = once(&target(probe, port), Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(error.starts_with("timeout: failed to connect"), "{error}");
}
