//! The gRPC health checking protocol, as a client: one call on a connection of its own.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether the service says that it serves; else why not, in the kubelet's words.
pub(super) async fn check(authority: &str, service: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, ask(authority, service)).await {
        Ok(Ok(SERVING)) => Ok(()),
        Ok(Ok(status)) => {
            let status = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "?",
            };
            Err(format!("service unhealthy (responded with {status:?})"))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!(
            "timeout: failed to connect service {authority:?} within {timeout:?}: context \
             deadline exceeded"
        )),
    }
}

async fn ask(authority: &str, service: &str) -> Result<i32, String> {
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .and_then(|endpoint| endpoint.user_agent("kube-probe/1.36"))
        .map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| {
        format!(
            "failed to connect service {authority:?}: {}",
            causes(&error)
        )
    })?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| causes(&error))?;
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let answer = client.unary(request, PathAndQuery::from_static(CHECK), codec);
    match answer.await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == Code::Unimplemented => Err(
            "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): "
                .to_owned()
                + status.message(),
        ),
        Err(status) => Err(format!("error: health rpc probe failed: {status}")),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
