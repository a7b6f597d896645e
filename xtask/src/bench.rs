//! `cargo xtask bench`: measures the one-node cluster and prints one table.

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {}

pub(crate) fn run(_arguments: &BenchArguments) -> anyhow::Result<()> {
    anyhow::bail!("nothing to measure")
}
