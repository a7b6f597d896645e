//! The `waggle` binary: arguments and wiring only.

mod agent_command;
mod allocator;
mod bench;
mod client;
mod cluster_command;
mod control_settings;
mod controller_command;
mod dev;
mod files;
mod image;
mod join;
mod lab;
mod logging;
mod objects;
mod pod_settings;
mod process;
mod progress;
mod settings;
mod table;
mod token_command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Kubernetes-compatible cluster whose network is eBPF all the way down.
#[derive(Debug, Parser)]
#[command(
    name = "waggle",
    version,
    arg_required_else_help = true,
    after_help = "\
Start with `waggle dev --demo`: one node on this machine, a demo on it, and what to type next."
)]
struct Arguments {
    /// What to log, as a tracing filter such as `info,agent::pods=debug`.
    #[arg(
        long,
        global = true,
        env = "WAGGLE_LOG",
        default_value = "info,openraft=warn"
    )]
    log: String,
    /// Log as JSON, one object a line.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Controller and agent together on this machine: a cluster of one node.
    Dev(Box<dev::DevArguments>),
    /// One member of the control plane: API server, store, scheduler, controllers.
    Controller(Box<controller_command::ControllerArguments>),
    /// The node agent: runs pods, owns the node's data plane and DNS.
    Agent(Box<agent_command::AgentArguments>),
    /// Several nodes on this machine, each a network namespace with its own agent.
    Lab(Box<lab::LabArguments>),
    /// What kubectl cannot say of a cluster: its members, and what each node has in force.
    Cluster(cluster_command::ClusterArguments),
    /// Tokens with which nodes join the cluster.
    Token(token_command::TokenArguments),
    #[command(flatten)]
    Objects(objects::Verb),
    /// Images on this node.
    Image(image::ImageArguments),
    /// Measures this data plane beside plain routing, iptables and nftables, on this machine.
    Bench(bench::BenchArguments),
    /// A process of `waggle bench`.
    #[command(hide = true)]
    BenchPart(bench::part::PartArguments),
}

fn main() -> ExitCode {
    // The keeper of the DNS server's sockets: before the argument parser, the async runtime and the log, none of which
    // it needs; it is long-lived and must stay small.
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|verb| verb == "keep-dns") {
        let code = agent::dns::keeper::main(&arguments[2..]);
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let arguments = Arguments::parse();
    // The one TLS provider of the process; an error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("waggle: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, each said once; what an API server has answered in its words.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let (said, is_last) = match cause.downcast_ref() {
            Some(kube::Error::Api(status)) => (status.message.clone(), true),
            _ => (cause.to_string(), false),
        };
        if !text.ends_with(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        if is_last {
            break;
        }
    }
    text
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let log = logging::LogSettings {
        filter: arguments.log,
        json: arguments.log_json,
    };
    match arguments.command {
        Command::Dev(dev) => dev::run(*dev, &log),
        Command::Controller(controller) => controller_command::run(&controller, &log),
        Command::Agent(agent) => agent_command::run(&agent, &log),
        Command::Lab(lab) => lab::run(*lab, &log),
        Command::Cluster(cluster) => cluster_command::run(&cluster),
        Command::Token(token) => token_command::run(&token),
        Command::Image(image) => image::run(&image, &log),
        Command::Bench(bench) => bench::run(&bench),
        Command::BenchPart(part) => bench::part::main(part),
        Command::Objects(verb) => return objects::run(&verb),
    }
    .map(|()| 0)
}

/// The runtime of every role: as many workers as there is parallel work on a node, not one per core.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    allocator::give_back_in_background();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 8))
        .max_blocking_threads(64)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_api_server_answers_is_said_once() {
        let status =
            kube::core::Status::failure("no leader: none is elected", "ServiceUnavailable");
        let error = anyhow::Error::new(kube::Error::Api(status.boxed())).context("remove m3");
        assert_eq!(told(&error), "remove m3: no leader: none is elected");
        let error = anyhow::anyhow!("refused").context("connect");
        assert_eq!(told(&error), "connect: refused");
        let error = anyhow::anyhow!("refused").context("connect: refused");
        assert_eq!(told(&error), "connect: refused");
    }
}
