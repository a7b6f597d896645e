//! `close(2)` of the last descriptor of a socket: what was remembered of it makes room (Linux 5.9).

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;

use crate::origins;
use crate::socket::PROCEED;

#[cgroup_sock(sock_release)]
pub(crate) fn sock_release(ctx: SockContext) -> i32 {
    origins::release(&ctx);
    PROCEED
}
