//! Addresses and ports as they stand in map keys: 16 bytes, IPv4 as IPv4-mapped IPv6, in network order.
//!
//! One representation for both families means one set of maps and one piece of logic. Words hold network
//! order bytes as they lie in memory; nothing here converts a word to host order but to apply a mask.

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address {
    /// The address's bytes, four at a time, as they lie in memory.
    pub words: [u32; 4],
}

/// `0000:ffff` of an IPv4-mapped address, as it lies in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `0.0.0.0` and `::`, for keys that stand for every address of the node.
    pub const ANY_V4: Self = Self::from_v4([0; 4]);
    pub const ANY_V6: Self = Self::UNSPECIFIED;
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    pub const LOOPBACK_V6: Self = Self {
        words: [0, 0, 0, 1u32.to_be()],
    };

    /// From an IPv4 address as it lies in memory (`struct in_addr`).
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(bytes))
    }

    #[inline(always)]
    #[must_use]
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut index = 0;
        while index < 4 {
            words[index] = u32::from_ne_bytes([
                bytes[4 * index],
                bytes[4 * index + 1],
                bytes[4 * index + 2],
                bytes[4 * index + 3],
            ]);
            index += 1;
        }
        Self { words }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The IPv4 address as it lies in memory; meaningless unless [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// 0 if it is the same address: to be combined with other differences, and compared once.
    #[inline(always)]
    #[must_use]
    pub const fn difference(&self, other: &Self) -> u32 {
        let (a, b) = (&self.words, &other.words);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])
    }

    /// `127.0.0.0/8`, also as `::ffff:127.0.0.0/104`, and `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        const FIRST: u32 = 0xff00_0000_u32.to_be();
        const NET: u32 = 0x7f00_0000_u32.to_be();
        if self.is_v4() {
            self.words[3] & FIRST == NET
        } else {
            self.words[0] | self.words[1] | self.words[2] == 0
                && self.words[3] == Self::LOOPBACK_V6.words[3]
        }
    }

    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut index = 0;
        while index < 16 {
            bytes[index] = self.words[index / 4].to_ne_bytes()[index % 4];
            index += 1;
        }
        bytes
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::from(address.words[3].to_ne_bytes())
        } else {
            Self::from(address.bytes())
        }
    }
}

/// A range of addresses: `address & mask == network`. All zero matches nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Net {
    pub network: Address,
    pub mask: Address,
}

impl Net {
    /// `prefix` counts bits of the family that `address` is of.
    #[must_use]
    pub fn new(address: core::net::IpAddr, prefix: u8) -> Self {
        let bits = match address {
            core::net::IpAddr::V4(_) => 96 + u32::from(prefix.min(32)),
            core::net::IpAddr::V6(_) => u32::from(prefix.min(128)),
        };
        let mask = match bits {
            0 => 0,
            bits => u128::MAX << (128 - bits),
        };
        let mask = Address::from_v6(mask.to_be_bytes());
        let address = Address::from(address);
        let mut network = address;
        for index in 0..4 {
            network.words[index] &= mask.words[index];
        }
        Self { network, mask }
    }

    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, address: &Address) -> bool {
        let m = &self.mask.words;
        let n = &self.network.words;
        let a = &address.words;
        let differs = ((a[0] & m[0]) ^ n[0])
            | ((a[1] & m[1]) ^ n[1])
            | ((a[2] & m[2]) ^ n[2])
            | ((a[3] & m[3]) ^ n[3]);
        // A mask of nothing stands for an empty entry of a fixed-size list, not for all addresses.
        differs == 0 && (m[0] | m[1] | m[2] | m[3]) != 0
    }
}

#[cfg(test)]
mod tests;
