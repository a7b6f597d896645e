//! The built-in client: what one needs of a cluster when there is no kubectl at hand. Words and flags are those of
//! kubectl.
//!
//! `objects/connect` finds the cluster, `objects/resource` what a word such as `deploy` means.

mod apply;
mod connect;
mod delete;
mod exec;
mod forward;
mod get;
mod logs;
mod manifest;
mod resource;

use std::path::PathBuf;

/// Which cluster, and where in it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Where {
    /// Namespace; the kubeconfig's, else `default`.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// $KUBECONFIG, else that of `waggle dev` or of `waggle controller`.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
}

/// The verbs, as they stand beside the roles.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Shows objects, as a table or as they are.
    Get(get::GetArguments),
    /// Makes objects what a manifest says (server-side apply).
    Apply(apply::ApplyArguments),
    /// Deletes objects by name or by manifest.
    Delete(delete::DeleteArguments),
    /// Prints what a container has written.
    Logs(logs::LogsArguments),
    /// Runs a command in a container.
    Exec(exec::ExecArguments),
    /// Makes ports of a pod reachable on this machine's loopback.
    PortForward(forward::ForwardArguments),
}

/// The exit code of the process.
pub(crate) fn run(verb: &Verb) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        match verb {
            Verb::Get(arguments) => get::run(arguments).await.map(|()| 0),
            Verb::Apply(arguments) => apply::run(arguments).await.map(|()| 0),
            Verb::Delete(arguments) => delete::run(arguments).await.map(|()| 0),
            Verb::Logs(arguments) => logs::run(arguments).await.map(|()| 0),
            Verb::Exec(arguments) => exec::run(arguments).await,
            Verb::PortForward(arguments) => forward::run(arguments).await.map(|()| 0),
        }
    });
    // A read from the terminal that nobody answers is not waited for.
    runtime.shutdown_background();
    code
}
