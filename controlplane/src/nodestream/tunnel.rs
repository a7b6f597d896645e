//! A connection that the node has made, as something to read from and write to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use proto::node::v1::stream_frame::Frame;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio::task::JoinHandle;

use super::{NodeStream, close, data};

/// Channels of a connection.
const TO_NODE: u32 = 0;
const FROM_NODE: u32 = 1;
/// What waits in each direction.
const BUFFER: usize = 32 << 10;

/// Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Tunnel {
    near: DuplexStream,
    pump: JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Tunnel {
    pub(crate) fn new(node: NodeStream) -> Self {
        let (near, far) = tokio::io::duplex(BUFFER);
        Self {
            near,
            pump: tokio::spawn(pump(far, node)),
        }
    }
}

/// Until the node has ended the call.
async fn pump(far: DuplexStream, node: NodeStream) {
    let (mut reader, mut writer) = tokio::io::split(far);
    let NodeStream {
        mut from_node,
        to_node,
    } = node;
    let up = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            let piece = match reader.read_buf(&mut buffer).await {
                Ok(1..) => buffer.split().freeze(),
                Ok(0) | Err(_) => break,
            };
            if to_node.send(data(TO_NODE, piece)).await.is_err() {
                return;
            }
        }
        // When nobody hears it, the node has ended the connection.
        let _ = to_node.send(close(TO_NODE)).await;
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some(frame) = from_node.recv().await {
            match frame.frame {
                Some(Frame::Data(said)) => {
                    let heard =
                        said.channel != FROM_NODE || writer.write_all(&said.data).await.is_ok();
                    if !heard {
                        return;
                    }
                }
                Some(Frame::CloseChannel(FROM_NODE)) => {
                    let _ = writer.shutdown().await;
                }
                _ => {}
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(context)
    }
}
