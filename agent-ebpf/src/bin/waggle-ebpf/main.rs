//! The eBPF programs, one file per attach point; each parses, asks the library to decide, and acts.
//!
//! ```text
//!   connect sendmsg recvmsg getpeername   cgroup hooks: Services at the socket (4 and 6 each)
//!   release                               cgroup hook: a socket is closed
//!   pod_ingress pod_egress                tc at the host side of a pod's veth: from the pod, to the pod
//!   uplink_ingress uplink_egress          tc at the interface to the outside: masquerade, Services from outside
//!   xdp_uplink                            XDP at the same: Services whose backend is elsewhere, native routing
//!   overlay_ingress overlay_egress        tc at the VXLAN device: from other nodes, to other nodes
//!   north_south direct                    what comes in for Services; what the backend's node answers
//!   pod_service masquerade                new flows at a pod's veth, and to the outside
//!   flows translate onward                a flow's entries, a packet's headers, where it goes on to
//!   route tunnel                          where other packets go; the tunnel key
//!   refuse fragment                       answers to senders; ports of fragments
//!   socket origins affinity maps          what the socket hooks share
//!   tc work maps                          what the tc programs share
//! ```
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For one instruction, in `origins`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("these programs run in the kernel: build them with `cargo xtask ebpf`");
}

#[cfg(target_arch = "bpf")]
mod affinity;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod direct;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod getpeername;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod masquerade;
#[cfg(target_arch = "bpf")]
mod north_south;
#[cfg(target_arch = "bpf")]
mod onward;
#[cfg(target_arch = "bpf")]
mod origins;
#[cfg(target_arch = "bpf")]
mod overlay_egress;
#[cfg(target_arch = "bpf")]
mod overlay_ingress;
#[cfg(target_arch = "bpf")]
mod pod_egress;
#[cfg(target_arch = "bpf")]
mod pod_ingress;
#[cfg(target_arch = "bpf")]
mod pod_service;
#[cfg(target_arch = "bpf")]
mod recvmsg;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
mod release;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod sendmsg;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod translate;
#[cfg(target_arch = "bpf")]
mod tunnel;
#[cfg(target_arch = "bpf")]
mod uplink_egress;
#[cfg(target_arch = "bpf")]
mod uplink_ingress;
#[cfg(target_arch = "bpf")]
mod work;
#[cfg(target_arch = "bpf")]
mod xdp_uplink;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Helpers such as bpf_redirect_peer's users and sk_storage are for programs with a GPL-compatible license.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
