//! Downloads that break off, and mirrors.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::registry::{config_for, manifest, store};
use super::*;
use crate::images::digest::Digest;
use crate::images::manifest::OCI_MANIFEST;

/// A registry that closes each connection after so many bytes of a layer, and goes on from where it is asked to.
async fn breaking_registry(layer: Vec<u8>, at_once: usize) -> SocketAddr {
    let config = config_for(&Digest::of(&layer));
    let manifest = manifest(&config, &layer);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    break;
                };
                request.push(byte);
            }
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let range = request
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes="));
            let from = range
                .and_then(|range| range.split('-').next()?.parse().ok())
                .unwrap_or(0);
            let (kind, body): (&str, &[u8]) = if path.contains("/manifests/") {
                (OCI_MANIFEST, &manifest)
            } else if path.ends_with(Digest::of(&config).hex()) {
                ("application/json", &config)
            } else if path.ends_with(Digest::of(&layer).hex()) {
                ("application/octet-stream", &layer)
            } else {
                ("text/plain", b"")
            };
            let status = if from > 0 {
                "206 Partial Content"
            } else {
                "200 OK"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len() - from
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let end = body.len().min(from + at_once);
            let _ = stream.write_all(&body[from..end]).await;
        }
    });
    address
}

fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let content = vec![7u8; 40_000];
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "file", content.as_slice())
        .unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed() {
    let address = breaking_registry(layer(), 15_000).await;
    let (_dir, store) = store().await;
    let name = format!("{address}/app:v1");
    let image = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    let file = std::fs::read(image.layers[0].join("file")).unwrap();
    assert_eq!(file, vec![7u8; 40_000]);
    // One that never gets to its end is given up.
    let (_other, store) = super::registry::store().await;
    let address = breaking_registry(layer(), 2_000).await;
    let name = format!("{address}/app:v1");
    let error = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::RegistryUnavailable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn mirrors_are_asked_first_and_images_keep_their_names() {
    let address = breaking_registry(layer(), usize::MAX / 2).await;
    let (_dir, store) = store().await;
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let mirrors = [nobody, address].map(|it| ("registry.invalid".to_owned(), it.to_string()));
    let store = store.with_mirrors(mirrors.into());
    let name = "registry.invalid/app:v1";
    let image = store
        .ensure(name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(image.reference, name);
    store.ensure(name, PullPolicy::Never, &[]).await.unwrap();
}
