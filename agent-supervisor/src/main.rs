//! `waggle-supervisor`: see the library.

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    std::process::exit(agent_supervisor::main(&arguments));
}
