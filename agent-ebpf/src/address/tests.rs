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
