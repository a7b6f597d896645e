//! Generates the Rust side of `proto/`. protox compiles the files in process, so no `protoc` is needed.

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let node = protox::compile(["waggle/node/v1/node.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".waggle")
        .codec_path("crate::codec::SmallCodec")
        .compile_fds(node)?;
    let raft = protox::compile(
        ["waggle/raft/v1/raft.proto", "waggle/raft/v1/record.proto"],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .bytes(".waggle")
        .compile_fds(raft)?;
    Ok(())
}
