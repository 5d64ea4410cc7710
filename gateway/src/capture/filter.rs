//! Filters of captures: terms in pcap-filter(7)'s words, all of which must hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Terms that must all hold; none: every frame matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    negated: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Arp,
    Ip,
    Ip6,
    Udp,
    Icmp,
    Icmp6,
    Port(Side, u16),
    Host(Side, IpAddr),
}

/// The end of a packet that a term is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no filter: {at:?}; give terms that must all hold, with or without `and` between them: arp, ip, ip6, udp, icmp, icmp6, \
     [src|dst] port N, [src|dst] host ADDRESS, each with or without `not` before it"
)]
pub struct FilterError {
    at: String,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut words = text.split_whitespace().filter(|word| *word != "and").peekable();
        let mut terms = Vec::new();
        while let Some(mut word) = words.next() {
            let bad = |word: &str| FilterError { at: word.chars().take(64).collect() };
            let negated = word == "not";
            if negated {
                word = words.next().ok_or_else(|| bad(word))?;
            }
            let side = match word {
                "src" => Side::Source,
                "dst" => Side::Destination,
                _ => Side::Either,
            };
            if side != Side::Either {
                word = words.next().ok_or_else(|| bad(word))?;
            }
            let what = match word {
                "port" | "host" => {
                    let value = words.next().ok_or_else(|| bad(word))?;
                    if word == "port" {
                        What::Port(side, value.parse().map_err(|_| bad(value))?)
                    } else {
                        What::Host(side, value.parse().map_err(|_| bad(value))?)
                    }
                }
                _ if side != Side::Either => return Err(bad(word)),
                "arp" => What::Arp,
                "ip" => What::Ip,
                "ip6" => What::Ip6,
                "udp" => What::Udp,
                "icmp" => What::Icmp,
                "icmp6" => What::Icmp6,
                _ => return Err(bad(word)),
            };
            terms.push(Term { negated, what });
        }
        Ok(Self(terms))
    }
}

impl Filter {
    /// Whether this frame matches all terms.
    pub fn takes(&self, frame: &[u8]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let seen = Seen::of(frame).unwrap_or_default();
        self.0.iter().all(|term| seen.is(term.what) != term.negated)
    }
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// A frame's headers, as far as they go.
#[derive(Default)]
struct Seen {
    ethertype: u16,
    protocol: Option<u8>,
    hosts: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
}

impl Seen {
    fn of(frame: &[u8]) -> Option<Self> {
        let mut seen = Self { ethertype: half(frame, 12)?, ..Self::default() };
        let mut at = 14;
        if seen.ethertype == VLAN {
            (seen.ethertype, at) = (half(frame, 16)?, 18);
        }
        seen.layer3(frame.get(at..)?);
        Some(seen)
    }

    fn layer3(&mut self, packet: &[u8]) -> Option<()> {
        let after = match self.ethertype {
            IPV4 => {
                self.protocol = Some(*packet.get(9)?);
                let address = |at: usize| {
                    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                    Some(IpAddr::from(Ipv4Addr::from(bytes)))
                };
                self.hosts = Some((address(12)?, address(16)?));
                // Later fragments have no ports.
                if half(packet, 6)? & 0x1fff != 0 {
                    return None;
                }
                usize::from(packet[0] & 15) * 4
            }
            IPV6 => {
                self.protocol = Some(*packet.get(6)?);
                let address = |at: usize| {
                    let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                    Some(IpAddr::from(Ipv6Addr::from(bytes)))
                };
                self.hosts = Some((address(8)?, address(24)?));
                40
            }
            _ => return None,
        };
        if self.protocol == Some(UDP) {
            self.ports = Some((half(packet, after)?, half(packet, after + 2)?));
        }
        Some(())
    }

    fn is(&self, what: What) -> bool {
        match what {
            What::Arp => self.ethertype == ARP,
            What::Ip => self.ethertype == IPV4,
            What::Ip6 => self.ethertype == IPV6,
            What::Udp => self.protocol == Some(UDP),
            What::Icmp => self.ethertype == IPV4 && self.protocol == Some(ICMP),
            What::Icmp6 => self.ethertype == IPV6 && self.protocol == Some(ICMP6),
            What::Port(side, port) => self.ports.is_some_and(|ports| side.is(ports, port)),
            What::Host(side, host) => self.hosts.is_some_and(|hosts| side.is(hosts, host)),
        }
    }
}

impl Side {
    fn is<T: PartialEq>(self, (source, destination): (T, T), wanted: T) -> bool {
        match self {
            Self::Source => source == wanted,
            Self::Destination => destination == wanted,
            Self::Either => source == wanted || destination == wanted,
        }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// UDP from 10.0.0.1 port 4433 to 10.0.0.2 port 5000.
    fn udp(vlan: bool) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if vlan {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend([0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x11, 0x51, 0x13, 0x88, 0, 8, 0, 0]);
        frame
    }

    fn takes(filter: &str, frame: &[u8]) -> bool {
        filter.parse::<Filter>().unwrap().takes(frame)
    }

    #[test]
    fn each_term_matches_its_frames_and_no_others() {
        for frame in [udp(false), udp(true)] {
            for yes in [
                "",
                "udp",
                "ip",
                "udp port 4433",
                "port 5000",
                "src port 4433",
                "dst host 10.0.0.2",
                "udp and not arp",
            ] {
                assert!(takes(yes, &frame), "{yes}");
            }
            for no in [
                "arp",
                "ip6",
                "icmp",
                "not udp",
                "udp port 4434",
                "dst port 4433",
                "src host 10.0.0.2",
                "host fd00::1",
            ] {
                assert!(!takes(no, &frame), "{no}");
            }
        }
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255]);
        v6.extend([0xfd; 32]);
        assert!(takes("icmp6", &v6) && takes("ip6 and not udp", &v6) && !takes("port 1", &v6));
        let arp = [&[0; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert!(takes("arp", &arp) && takes("not port 1", &arp));
    }

    #[test]
    fn a_text_that_is_no_filter_is_refused_with_its_faulty_word() {
        for text in ["tcp", "port", "port x", "host 10.0.0", "src udp", "not", "port 70000", "dst"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_judged_without_panic(frame in proptest::collection::vec(any::<u8>(), 0..80), ethertype in 0..3_usize) {
            let mut frame = frame;
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(&[[0x08, 0], [0x86, 0xdd], [0x81, 0]][ethertype]);
            }
            takes("udp port 1 and not host 10.0.0.1", &frame);
        }

        #[test]
        fn any_text_is_judged_without_panic(text in ".{0,80}") {
            let _ = text.parse::<Filter>();
        }
    }
}
