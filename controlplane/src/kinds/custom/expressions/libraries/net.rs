//! Addresses and ranges: `ip("10.0.0.1")`, `cidr("10.0.0.0/8").containsIP("10.1.2.3")`.

use std::net::IpAddr;

use cel::common::types::{STRING_TYPE, Type};
use cel::objects::Opaque;
use cel::{DeclarationError, Env};
use ipnet::IpNet;

use super::{failed, give, give_opaque, global, member, opaque_at, text_at};

const IP: &str = "net.IP";
const CIDR: &str = "net.CIDR";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address(IpAddr);

impl Opaque for Address {
    fn runtime_type_name(&self) -> &str {
        IP
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range(IpNet);

impl Opaque for Range {
    fn runtime_type_name(&self) -> &str {
        CIDR
    }
}

fn ip_type() -> Type {
    Type::new_opaque_type(IP)
}

fn cidr_type() -> Type {
    Type::new_opaque_type(CIDR)
}

/// No zone, no IPv4 inside of IPv6.
fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Err(_) => Err(format!(
            "IP Address {text:?} parse error during conversion from string"
        )),
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(address) => Ok(address),
    }
}

fn range(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Err(_) => Err(format!(
            "network address parse error during conversion from string: {text:?}"
        )),
        Ok(IpNet::V6(range)) if range.addr().to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(range) => Ok(range),
    }
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(ip_type())?;
    env.add_type(cidr_type())?;
    addresses(env)?;
    ranges(env)
}

fn addresses(env: &mut Env) -> Result<(), DeclarationError> {
    global(env, "ip", vec![STRING_TYPE], |arguments| {
        match address(text_at(&arguments, 0)?) {
            Ok(address) => give_opaque(Address(address)),
            Err(why) => Err(failed("ip", why)),
        }
    })?;
    global(env, "isIP", vec![STRING_TYPE], |arguments| {
        give(address(text_at(&arguments, 0)?).is_ok())
    })?;
    global(env, "ip.isCanonical", vec![STRING_TYPE], |arguments| {
        let text = text_at(&arguments, 0)?;
        match address(text) {
            Ok(address) => give(address.to_string() == text),
            Err(why) => Err(failed("ip.isCanonical", why)),
        }
    })?;
    global(env, "string", vec![ip_type()], |arguments| {
        give(opaque_at::<Address>(&arguments, 0)?.0.to_string())
    })?;
    member(env, "family", ip_type(), vec![], |arguments| {
        give(if opaque_at::<Address>(&arguments, 0)?.0.is_ipv4() {
            4i64
        } else {
            6
        })
    })?;
    member(env, "isUnspecified", ip_type(), vec![], |arguments| {
        give(opaque_at::<Address>(&arguments, 0)?.0.is_unspecified())
    })?;
    member(env, "isLoopback", ip_type(), vec![], |arguments| {
        give(opaque_at::<Address>(&arguments, 0)?.0.is_loopback())
    })?;
    member(
        env,
        "isLinkLocalMulticast",
        ip_type(),
        vec![],
        |arguments| {
            give(match opaque_at::<Address>(&arguments, 0)?.0 {
                IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
                IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
            })
        },
    )?;
    member(env, "isLinkLocalUnicast", ip_type(), vec![], |arguments| {
        give(is_link_local(opaque_at::<Address>(&arguments, 0)?.0))
    })?;
    member(env, "isGlobalUnicast", ip_type(), vec![], |arguments| {
        let address = opaque_at::<Address>(&arguments, 0)?.0;
        let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        give(
            !is_broadcast
                && !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && !is_link_local(address),
        )
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn ranges(env: &mut Env) -> Result<(), DeclarationError> {
    global(env, "cidr", vec![STRING_TYPE], |arguments| {
        match range(text_at(&arguments, 0)?) {
            Ok(range) => give_opaque(Range(range)),
            Err(why) => Err(failed("cidr", why)),
        }
    })?;
    global(env, "isCIDR", vec![STRING_TYPE], |arguments| {
        give(range(text_at(&arguments, 0)?).is_ok())
    })?;
    global(env, "string", vec![cidr_type()], |arguments| {
        give(opaque_at::<Range>(&arguments, 0)?.0.to_string())
    })?;
    member(
        env,
        "containsIP",
        cidr_type(),
        vec![STRING_TYPE],
        |arguments| {
            let range = opaque_at::<Range>(&arguments, 0)?;
            match address(text_at(&arguments, 1)?) {
                Ok(address) => give(range.0.contains(&address)),
                Err(why) => Err(failed("containsIP", why)),
            }
        },
    )?;
    member(
        env,
        "containsIP",
        cidr_type(),
        vec![ip_type()],
        |arguments| {
            let range = opaque_at::<Range>(&arguments, 0)?;
            give(range.0.contains(&opaque_at::<Address>(&arguments, 1)?.0))
        },
    )?;
    member(
        env,
        "containsCIDR",
        cidr_type(),
        vec![STRING_TYPE],
        |arguments| {
            let outer = opaque_at::<Range>(&arguments, 0)?;
            match range(text_at(&arguments, 1)?) {
                Ok(inner) => give(outer.0.contains(&inner)),
                Err(why) => Err(failed("containsCIDR", why)),
            }
        },
    )?;
    member(
        env,
        "containsCIDR",
        cidr_type(),
        vec![cidr_type()],
        |arguments| {
            let outer = opaque_at::<Range>(&arguments, 0)?;
            give(outer.0.contains(&opaque_at::<Range>(&arguments, 1)?.0))
        },
    )?;
    member(env, "ip", cidr_type(), vec![], |arguments| {
        give_opaque(Address(opaque_at::<Range>(&arguments, 0)?.0.addr()))
    })?;
    member(env, "masked", cidr_type(), vec![], |arguments| {
        give_opaque(Range(opaque_at::<Range>(&arguments, 0)?.0.trunc()))
    })?;
    member(env, "prefixLength", cidr_type(), vec![], |arguments| {
        give(i64::from(opaque_at::<Range>(&arguments, 0)?.0.prefix_len()))
    })
}
