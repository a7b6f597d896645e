//! `waggle port-forward`: ports of a pod on this machine's loopback.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::net::{TcpListener, TcpStream};

use super::Where;
use super::connect::connect;

#[derive(Debug, clap::Args)]
pub(crate) struct ForwardArguments {
    pod: String,
    /// `8080` (the same port here), `9000:8080`, or `:8080` (any port here).
    #[arg(required = true, value_parser = ports)]
    ports: Vec<(u16, u16)>,
    #[command(flatten)]
    place: Where,
}

/// Here and in the pod.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let (here, there) = text.split_once(':').unwrap_or((text, text));
    let there = there.parse().ok().filter(|port| *port > 0);
    let here = match here {
        "" => Some(0),
        here => here.parse().ok(),
    };
    here.zip(there)
        .ok_or_else(|| format!("{text:?} is not PORT, LOCAL:PORT or :PORT"))
}

pub(super) async fn run(arguments: &ForwardArguments) -> anyhow::Result<()> {
    let (client, namespace) = connect(&arguments.place).await?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    // A pod that is not there is said now, not at the first connection.
    pods.get(&arguments.pod).await?;
    let mut listeners = Vec::new();
    for (here, there) in &arguments.ports {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *here);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| address.to_string())?;
        println!("Forwarding from {} -> {there}", listener.local_addr()?);
        listeners.push(listen(&pods, &arguments.pod, listener, *there));
    }
    try_join_all(listeners).await?;
    Ok(())
}

async fn listen(
    pods: &Api<Pod>,
    pod: &str,
    listener: TcpListener,
    port: u16,
) -> anyhow::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let (pods, pod) = (pods.clone(), pod.to_owned());
        tokio::spawn(async move {
            if let Err(error) = carry(&pods, &pod, socket, port).await {
                eprintln!("port {port}: {error:#}");
            }
        });
    }
}

async fn carry(pods: &Api<Pod>, pod: &str, mut socket: TcpStream, port: u16) -> anyhow::Result<()> {
    let mut forwarder = pods.portforward(pod, &[port]).await?;
    let mut stream = forwarder.take_stream(port).context("no stream")?;
    let error = forwarder.take_error(port).context("no errors")?;
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut socket, &mut stream) => {
            copied?;
        }
        Some(error) = error => anyhow::bail!(error),
    }
    drop(stream);
    forwarder.abort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn forms_of_ports() {
        assert_eq!(ports("80"), Ok((80, 80)));
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports(":80"), Ok((0, 80)));
        for wrong in ["", "x", "80:", "80:0", "1:2:3"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
