//! Tests of `address`.

#![allow(clippy::unwrap_used)]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

proptest! {
    #[test]
    fn round_trip(ip in any_ip()) {
        let address = Address::from(ip);
        let back = IpAddr::from(address);
        prop_assert_eq!(back.to_canonical(), ip.to_canonical());
        prop_assert_eq!(address.is_v4(), ip.to_canonical().is_ipv4());
    }

    #[test]
    fn difference_is_inequality(a in any_ip(), b in any_ip(), bit in 0usize..128) {
        let (a, b) = (Address::from(a), Address::from(b));
        prop_assert_eq!(a.difference(&b) == 0, a == b);
        let mut c = a;
        c.words[bit / 32] ^= 1 << (bit % 32);
        prop_assert_ne!(a.difference(&c), 0);
        prop_assert_eq!(a.difference(&a), 0);
    }

    #[test]
    fn loopback_is_what_the_standard_library_says(ip in any_ip(), host in any::<u32>()) {
        prop_assert_eq!(Address::from(ip).is_loopback(), ip.to_canonical().is_loopback());
        let v4 = Ipv4Addr::from(0x7f00_0000 | host >> 8);
        prop_assert!(Address::from(IpAddr::V4(v4)).is_loopback());
        prop_assert!(Address::from(IpAddr::V6(v4.to_ipv6_mapped())).is_loopback());
    }

    #[test]
    fn contains_agrees_with_shifting(net in any::<u32>(), prefix in 0u8..=32, other in any::<u32>()) {
        let expected = prefix == 0 || (net >> (32 - prefix)) == (other >> (32 - prefix));
        let range = Net::new(Ipv4Addr::from(net).into(), prefix);
        prop_assert_eq!(range.contains(&Ipv4Addr::from(other).to_canonical_address()), expected);
    }

    #[test]
    fn contains_v6(net in any::<u128>(), prefix in 1u8..=128, flip in 0u32..128) {
        let range = Net::new(Ipv6Addr::from(net).into(), prefix);
        let other = Address::from(IpAddr::V6(Ipv6Addr::from(net ^ (1 << (127 - flip)))));
        prop_assert_eq!(range.contains(&other), flip >= u32::from(prefix));
    }
}

trait Canonical {
    fn to_canonical_address(self) -> Address;
}
impl Canonical for Ipv4Addr {
    fn to_canonical_address(self) -> Address {
        Address::from(IpAddr::V4(self))
    }
}

#[test]
fn an_empty_net_matches_nothing() {
    assert!(!Net::default().contains(&Address::UNSPECIFIED));
    assert!(!Net::default().contains(&Address::from_v4([10, 0, 0, 1])));
}

#[test]
fn loopback_of_both_families() {
    assert!(Address::LOOPBACK_V4.is_loopback());
    assert!(Address::LOOPBACK_V6.is_loopback());
    assert_eq!(
        IpAddr::from(Address::LOOPBACK_V6),
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    );
    for other in [
        "128.0.0.1",
        "126.255.255.255",
        "0.0.0.0",
        "::",
        "::2",
        "::7f00:1",
    ] {
        let other: IpAddr = other.parse().unwrap();
        assert!(!Address::from(other).is_loopback(), "{other}");
    }
}
