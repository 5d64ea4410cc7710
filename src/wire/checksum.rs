//! The Internet checksum (RFC 1071): a one's-complement sum of 16-bit words.

/// A one's-complement sum in progress. Add pieces in any order; each but the last must have an even length.
///
/// RFC 1071 §2(B): the sum does not depend on byte order, so words are added as they lie in memory and swapped once,
/// in [`Sum::fold`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// Bytes added by one pass of the inner loop.
const BLOCK_BYTES: usize = 64;

impl Sum {
    /// Adds `bytes`; an odd last byte counts as if a zero followed it.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Eight lanes of u64 that take u32 words: no carry is lost before 2^32 words, and the compiler makes SIMD of it.
        let mut lanes = [0u64; 8];
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                let word = u64::from_ne_bytes(*word);
                *lane += (word & 0xffff_ffff) + (word >> 32);
            }
        }
        let mut sum = lanes.iter().sum::<u64>();
        let (words, tail) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let (words, last) = tail.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [byte] = last {
            sum += u64::from(u16::from_ne_bytes([*byte, 0]));
        }
        Self(self.0 + sum)
    }

    /// Adds one 16-bit word, given by its value.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The sum as a 16-bit value, not complemented. Over data with a right checksum in it, this is `0xffff`.
    #[inline]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum to write: the complement of the sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum to write in a UDP header, where 0 means that there is none (RFC 768).
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether the bytes added, their checksum among them, are intact.
    #[inline]
    pub fn holds(self) -> bool {
        self.fold() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpAddress, Ipv4Address, UdpPacket, UdpRepr};

    /// RFC 1071's own sum, one byte at a time.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for (i, &byte) in bytes.iter().enumerate() {
            sum += if i % 2 == 0 { u32::from(byte) << 8 } else { u32::from(byte) };
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_section_3_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn a_zero_udp_checksum_is_written_as_ones() {
        assert_eq!(Sum::default().word(0xffff).udp_checksum(), 0xffff);
    }

    #[test]
    fn the_largest_datagram_of_ones_does_not_overflow() {
        assert_eq!(Sum::default().bytes(&[0xff; 65_535]).fold(), plain_sum(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn any_bytes_sum_as_byte_by_byte(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).fold(), plain_sum(&bytes));
        }

        #[test]
        fn any_split_at_an_even_place_gives_the_same_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..300,
        ) {
            let at = (at * 2).min(bytes.len() & !1);
            let (head, tail) = bytes.split_at(at);
            prop_assert_eq!(
                Sum::default().bytes(tail).bytes(head).fold(),
                Sum::default().bytes(&bytes).fold()
            );
        }

        #[test]
        fn smoltcp_writes_the_same_udp_checksum(
            payload in proptest::collection::vec(any::<u8>(), 0..2000), ports: (u16, u16), hosts: (u32, u32),
        ) {
            let (source, destination) = (Ipv4Address::from(hosts.0), Ipv4Address::from(hosts.1));
            let mut bytes = vec![0; 8 + payload.len()];
            UdpRepr { src_port: ports.0, dst_port: ports.1 }.emit(
                &mut UdpPacket::new_unchecked(&mut bytes),
                &IpAddress::Ipv4(source), &IpAddress::Ipv4(destination),
                payload.len(), |out| out.copy_from_slice(&payload), &ChecksumCapabilities::default(),
            );
            let theirs = u16::from_be_bytes([bytes[6], bytes[7]]);
            let sum = Sum::default()
                .bytes(&source.octets()).bytes(&destination.octets())
                .word(17).word(bytes.len() as u16)
                .bytes(&bytes);
            prop_assert!(sum.holds());
            bytes[6..8].fill(0);
            let ours = Sum::default()
                .bytes(&source.octets()).bytes(&destination.octets())
                .word(17).word(bytes.len() as u16)
                .bytes(&bytes).udp_checksum();
            prop_assert_eq!(ours, theirs);
        }
    }
}
