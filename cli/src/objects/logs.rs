//! `waggle logs`.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

use super::Where;
use super::connect::connect;

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArguments {
    pod: String,
    /// The pod's only one, or the one that its annotation names.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on until the container ends.
    #[arg(short, long)]
    follow: bool,
    /// Of the attempt before.
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines.
    #[arg(long)]
    tail: Option<i64>,
    /// Only what is younger than so many seconds.
    #[arg(long)]
    since: Option<i64>,
    /// The time before each line.
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn run(arguments: &LogsArguments) -> anyhow::Result<()> {
    let (client, namespace) = connect(&arguments.place).await?;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let parameters = LogParams {
        container: arguments.container.clone(),
        follow: arguments.follow,
        previous: arguments.previous,
        tail_lines: arguments.tail,
        since_seconds: arguments.since,
        timestamps: arguments.timestamps,
        ..LogParams::default()
    };
    let mut log = std::pin::pin!(pods.log_stream(&arguments.pod, &parameters).await?);
    let mut out = futures::io::AllowStdIo::new(std::io::stdout());
    let mut buffer = vec![0; 32 << 10];
    loop {
        match log.read(&mut buffer).await? {
            0 => return Ok(()),
            length => out.write_all(&buffer[..length]).await?,
        }
        out.flush().await?;
    }
}
