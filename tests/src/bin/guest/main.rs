//! A client in a machine whose power is going to be cut: `waggle-guest KUBECONFIG ROUND`.
//!
//! Says all that the member holds, then writes and says what was acknowledged, one thing a line, until it is ended with
//! the machine. A line is out, byte by byte over the serial console, before the next write of its writer.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use kube::config::Kubeconfig;
use kube::{Client, Config};
use serde_json::{Value, json};

const WRITERS: usize = 4;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kubeconfig), Some(round)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("KUBECONFIG ROUND");
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = connect(Path::new(&kubeconfig)).await?;
    show(&client).await;
    let writers = (0..WRITERS).map(|writer| write(client.clone(), format!("r{round}-w{writer}")));
    futures::future::join_all(writers).await;
    Ok(())
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    while !kubeconfig.exists() {
        tokio::time::sleep(PAUSE).await;
    }
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// The kernel has taken it when this returns, and the console's line discipline keeps the order.
fn say(line: &str) {
    let mut console = std::io::stdout().lock();
    let _ = writeln!(console, "waggle: {line}");
    let _ = console.flush();
}

async fn show(client: &Client) {
    loop {
        let request = http::Request::get(COLLECTION).body(Vec::new());
        let request = request.expect("a request");
        if let Ok(list) = client.request::<Value>(request).await {
            for item in list["items"].as_array().into_iter().flatten() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                if let Some(value) = item["data"]["number"].as_str() {
                    say(&format!("has {name}={value}"));
                }
            }
            say("shown");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Objects one after the other, each created and then changed once.
async fn write(client: Client, name: String) {
    for count in 0_u64.. {
        let name = format!("{name}-{count}");
        for number in 1..=2 {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"number": number.to_string(), "fill": "x".repeat(300)},
            });
            let (method, path) = match number {
                1 => ("POST", COLLECTION.to_owned()),
                _ => ("PUT", format!("{COLLECTION}/{name}")),
            };
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", "application/json")
                .body(object.to_string().into_bytes())
                .expect("a request");
            match client.request::<Value>(request).await {
                Ok(_) => say(&format!("ack {name}={number}")),
                Err(error) => {
                    say(&format!("refused {name}: {error}"));
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
    }
}
