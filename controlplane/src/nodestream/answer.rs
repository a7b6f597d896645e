//! The first frames of a stream: what a node says when it is asked for one, and how bytes go over it.

use std::time::Duration;

use http::StatusCode;
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::{StreamAccepted, StreamData, StreamError, StreamFrame};

use super::NodeStream;
use crate::registry::ApiError;

/// How long a node may take to say whether it can.
const ACCEPT: Duration = Duration::from_secs(15);

/// What a node says instead of a stream.
#[derive(Debug)]
pub(crate) enum Refused {
    Status(ApiError),
    /// In the words of the kubelet, which are no Status; clients print them as they are.
    Words(StatusCode, String),
}

impl From<StreamError> for Refused {
    fn from(error: StreamError) -> Self {
        let code = u16::try_from(error.code)
            .ok()
            .filter(|code| (400..600).contains(code))
            .unwrap_or(500);
        if error.reason.is_empty() {
            let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Self::Words(code, error.message);
        }
        Self::Status(ApiError::new(code, &error.reason, error.message))
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Status(error)
    }
}

impl Refused {
    pub(crate) fn message(self) -> String {
        match self {
            Self::Status(error) => error.to_string(),
            Self::Words(_, text) => text,
        }
    }
}

/// Waits for the node to say that it can.
pub(crate) async fn accepted(node: &mut NodeStream) -> Result<StreamAccepted, Refused> {
    let first = async {
        loop {
            match node.from_node.recv().await {
                None => {
                    let gone = ApiError::unavailable("the node broke off the stream");
                    return Err(gone.into());
                }
                Some(StreamFrame {
                    frame: Some(Frame::Accepted(accepted)),
                }) => return Ok(accepted),
                Some(StreamFrame {
                    frame: Some(Frame::Error(error)),
                }) => return Err(error.into()),
                Some(_) => {}
            }
        }
    };
    match tokio::time::timeout(ACCEPT, first).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::timeout("the node did not answer in time").into()),
    }
}

pub(crate) fn data(channel: u32, bytes: bytes::Bytes) -> StreamFrame {
    StreamFrame {
        frame: Some(Frame::Data(StreamData {
            channel,
            data: bytes,
        })),
    }
}

pub(crate) fn close(channel: u32) -> StreamFrame {
    StreamFrame {
        frame: Some(Frame::CloseChannel(channel)),
    }
}
