//! What can be decided about upstream resolvers without asking one.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn name_servers_of_resolv_conf_are_read() {
    let text = "# comment\nsearch example.com\nnameserver 192.0.2.1\n nameserver 2001:db8::1 \n\
                nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver\nnameservers 192.0.2.9\n\
                options ndots:5\n";
    let servers = parse_resolv_conf(text);
    let expected = ["192.0.2.1:53", "[2001:db8::1]:53"].map(|s| s.parse().unwrap());
    assert_eq!(servers, expected);
}

#[test]
fn this_server_is_no_upstream_of_its_own() {
    for (upstream, listen, ourselves) in [
        ("169.254.20.10:53", "169.254.20.10:53", true),
        ("169.254.20.10:53", "169.254.20.10:5353", false),
        ("192.0.2.1:53", "169.254.20.10:53", false),
        ("127.0.0.1:53", "0.0.0.0:53", true),
        ("0.0.0.0:53", "127.0.0.1:53", true),
        ("[::1]:53", "[::]:53", true),
    ] {
        let result = is_ourselves(upstream.parse().unwrap(), listen.parse().unwrap());
        assert_eq!(result, ourselves, "{upstream} {listen}");
    }
}

proptest! {
    #[test]
    fn resolv_conf_never_panics(text in "\\PC{0,200}") {
        let _ = parse_resolv_conf(&text);
    }
}
