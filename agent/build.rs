//! Builds what the agent embeds: the eBPF programs of `agent-ebpf` (`OUT_DIR/waggle-ebpf`) and the supervisor of pods
//! (`agent-supervisor`; where it lies is in the variable `WAGGLE_SUPERVISOR`).

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/supervisor.rs"]
mod supervisor;

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    supervisor::build()?;
    ebpf::build()
}
