//! How `waggle` is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // At an address of its own choice, every table of functions in the program is written to when a process starts: some
    // 120,000 relocations and 2.5 MiB that no two processes share. There is a supervisor for each pod and a start of the
    // program for each supervisor, so it is linked for a fixed address, as other container run-times and kubelets are.
    // Libraries, stacks and heaps still move.
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
