//! An IP address and the length of its network's prefix.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::num::ParseIntError;
use std::str::FromStr;

/// An address of this host with the prefix of the network it is on, written `10.77.0.1/24` or `fd00::1/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is no [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No slash in it.
    #[error("`{0}` has no prefix length: write an address and a length, such as 10.77.0.1/24 or fd00::1/64")]
    NoLength(String),
    /// The text before the slash is no address.
    #[error("`{text}` is no IP address: write one such as 10.77.0.1 or fd00::1 before the slash")]
    Address {
        /// That text.
        text: String,
        /// The parser's reason.
        source: AddrParseError,
    },
    /// The text behind the slash is no number.
    #[error("`{text}` is no prefix length: write a number of bits behind the slash")]
    Length {
        /// That text.
        text: String,
        /// The parser's reason.
        source: ParseIntError,
    },
    /// More bits than an address of that family has.
    #[error("a prefix of {len} bits is too long: {address} has {max} bits; write that or less")]
    TooLong {
        /// The address.
        address: IpAddr,
        /// The length asked for.
        len: u8,
        /// The length of such an address.
        max: u8,
    },
    /// A group, loopback or unspecified address.
    #[error("{0} cannot be a host's address on a link: give a unicast address")]
    NotUnicast(IpAddr),
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl Prefix {
    /// An address that a host can have on a link, with a prefix of `len` bits.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let max = if address.is_ipv4() { 32 } else { 128 };
        if len > max {
            return Err(PrefixError::TooLong { address, len, max });
        }
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_multicast() || address.is_loopback() || address.is_unspecified() || broadcast {
            return Err(PrefixError::NotUnicast(address));
        }
        Ok(Self { address, len })
    }

    /// The host's address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix's length, bits.
    // A prefix of length 0 is no empty prefix.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether `other` is on the same network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                (ours.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                (ours.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether `other` is the network's own address or its broadcast address, neither of which is a host's. Networks
    /// of two addresses have neither (RFC 3021).
    pub fn is_reserved(&self, other: IpAddr) -> bool {
        let IpAddr::V4(v4) = other else { return false };
        if self.len >= 31 || !self.contains(other) {
            return false;
        }
        let host = u32::MAX >> self.len;
        v4.to_bits() & host == 0 || v4.to_bits() & host == host
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = text.split_once('/').ok_or_else(|| PrefixError::NoLength(text.to_owned()))?;
        let address =
            address.parse().map_err(|source| PrefixError::Address { text: address.to_owned(), source })?;
        let len = len.parse().map_err(|source| PrefixError::Length { text: len.to_owned(), source })?;
        Self::new(address, len)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_written_prefix_reads_back() {
        for text in ["10.77.0.1/24", "192.0.2.1/32", "fd00::1/64", "2001:db8::1/0"] {
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn an_address_is_on_the_network_when_its_first_bits_are_equal() {
        assert!(prefix("10.77.0.1/24").contains([10, 77, 0, 255].into()));
        assert!(!prefix("10.77.0.1/24").contains([10, 77, 1, 1].into()));
        assert!(prefix("10.77.0.1/0").contains([192, 0, 2, 1].into()));
        assert!(!prefix("10.77.0.1/32").contains([10, 77, 0, 2].into()));
        assert!(prefix("fd00::1/64").contains("fd00::ffff:1".parse().unwrap()));
        assert!(!prefix("fd00::1/64").contains("fd00:0:0:1::1".parse().unwrap()));
        assert!(!prefix("::2/0").contains([10, 77, 0, 1].into()));
    }

    #[test]
    fn network_and_broadcast_addresses_are_no_hosts_but_on_networks_of_two() {
        assert!(prefix("10.77.0.1/24").is_reserved([10, 77, 0, 255].into()));
        assert!(prefix("10.77.0.1/24").is_reserved([10, 77, 0, 0].into()));
        assert!(!prefix("10.77.0.1/24").is_reserved([10, 77, 0, 7].into()));
        assert!(!prefix("10.77.0.1/31").is_reserved([10, 77, 0, 0].into()));
        assert!(!prefix("fd00::1/64").is_reserved("fd00::".parse().unwrap()));
    }

    #[test]
    fn the_error_of_a_wrong_prefix_names_its_fault() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        assert!(error("10.77.0.1").contains("no prefix length"));
        assert!(error("10.77.0/24").contains("`10.77.0` is no IP address"));
        assert!(error("10.77.0.1/x").contains("`x` is no prefix length"));
        assert!(error("10.77.0.1/33").contains("10.77.0.1 has 32 bits"));
        assert!(error("224.0.0.1/4").contains("unicast"));
    }
}
