//! Addresses of an interface, by the kernel's rtnetlink (rtnetlink(7)).

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, sendto, socket_with,
};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use stoq::wire::prefix::Prefix;

/// Of linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h and linux/if_link.h.
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// No search for others with the address: there are none on a TUN, and the address would be unusable meanwhile.
const IFA_F_NODAD: u8 = 2;
const HEADER_LEN: usize = 16;

/// What becomes of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressChange {
    Add,
    Remove,
}

/// The addresses of one interface.
pub(super) struct InterfaceAddresses {
    socket: OwnedFd,
    index: u32,
    addresses: Vec<Prefix>,
    sequence: u32,
}

impl InterfaceAddresses {
    /// Those of the interface of this name.
    ///
    /// # Errors
    /// There is no such interface, or no socket.
    pub(super) fn new(interface: &str, addresses: Vec<Prefix>) -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE, whose number is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        Ok(Self { socket, index, addresses, sequence: 0 })
    }

    /// Puts all of them on the interface, or takes them off. What is so already is no error.
    ///
    /// # Errors
    /// The kernel refuses one. None is put on the interface then, and the others are taken off.
    pub(super) fn change(&mut self, change: AddressChange) -> io::Result<()> {
        let changed = self.change_each(change);
        if changed.is_err() && change == AddressChange::Add {
            // An address that stayed alone would be announced whether the gateway is ready or not.
            let _ = self.change_each(AddressChange::Remove);
        }
        changed
    }

    /// Has the kernel give the interface no address of its own making, before it is up. A kernel without IPv6 gives none in any case.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn generate_none(&mut self) -> io::Result<()> {
        match self.request(no_generated) {
            Err(error) if error.kind() == ErrorKind::Unsupported || is_no_family(&error) => Ok(()),
            result => result,
        }
    }

    fn change_each(&mut self, change: AddressChange) -> io::Result<()> {
        let results: Vec<_> =
            self.addresses.clone().into_iter().map(|address| self.change_one(address, change)).collect();
        results.into_iter().collect()
    }

    fn change_one(&mut self, address: Prefix, change: AddressChange) -> io::Result<()> {
        match (self.request(|index, sequence| request(address, change, index, sequence)), change) {
            (Err(error), AddressChange::Remove) if error.kind() == ErrorKind::AddrNotAvailable => Ok(()),
            (result, _) => result,
        }
    }

    /// Sends a request about the interface of this index, and waits for the kernel's answer.
    fn request(&mut self, request: impl Fn(u32, u32) -> Vec<u8>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.index, self.sequence);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 4096];
        let (len, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        acknowledged(&answer[..len])
    }
}

/// Whether there is an interface of this name.
pub(super) fn is_interface(name: &str) -> bool {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
    socket.is_ok_and(|socket| netdevice::name_to_index(&socket, name).is_ok())
}

impl fmt::Display for InterfaceAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.addresses.iter().map(|prefix| prefix.address().to_string()).collect();
        f.write_str(&texts.join(" "))
    }
}

/// A request that puts one address on the interface of this index, or takes it off.
fn request(prefix: Prefix, change: AddressChange, index: u32, sequence: u32) -> Vec<u8> {
    let (family, bytes) = match prefix.address() {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let (kind, more) = match change {
        AddressChange::Add => (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE),
        AddressChange::Remove => (RTM_DELADDR, 0),
    };
    let mut body = vec![family.as_raw() as u8, prefix.len(), IFA_F_NODAD, 0];
    body.extend(index.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        body.extend(attribute(kind, &bytes));
    }
    message(kind, more, sequence, &body)
}

/// A request that has the kernel generate no IPv6 address for the interface of this index.
fn no_generated(index: u32, sequence: u32) -> Vec<u8> {
    let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    let of_family = attribute(AddressFamily::INET6.as_raw(), &mode);
    // A header of an interface: no family, no type, the index, no flags to change.
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend([0; 8]);
    body.extend(attribute(IFLA_AF_SPEC, &of_family));
    message(RTM_SETLINK, 0, sequence, &body)
}

/// An attribute, filled up to whole words.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = 4 + content.len();
    let mut attribute = Vec::with_capacity(len.next_multiple_of(4));
    attribute.extend((len as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(content);
    attribute.resize(len.next_multiple_of(4), 0);
    attribute
}

/// A request to the kernel that it acknowledges.
fn message(kind: u16, more: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + body.len());
    message.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | more).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

/// Whether the kernel lacks IPv6 (EAFNOSUPPORT).
fn is_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// What the kernel answered: an error of 0 is an acknowledgment.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let code = answer.get(HEADER_LEN..HEADER_LEN + 4);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(&[a, b, c, d])) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
        _ => Err(io::Error::new(ErrorKind::InvalidData, "the kernel gave no acknowledgment")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_kernels_form() {
        let added = request("203.0.113.1/32".parse().unwrap(), AddressChange::Add, 7, 3);
        assert_eq!(added.len(), 16 + 8 + 2 * 8);
        assert_eq!(added[..4], 40_u32.to_ne_bytes());
        assert_eq!(added[4..6], RTM_NEWADDR.to_ne_bytes());
        assert_eq!(added[16..20], [2, 32, IFA_F_NODAD, 0]);
        assert_eq!(added[20..24], 7_u32.to_ne_bytes());
        assert_eq!(added[28..32], [203, 0, 113, 1]);
        let removed = request("2001:db8::1/128".parse().unwrap(), AddressChange::Remove, 7, 4);
        assert_eq!((removed.len(), removed[16], removed[17]), (16 + 8 + 2 * 20, 10, 128));
        assert_eq!(removed[4..6], RTM_DELADDR.to_ne_bytes());
    }

    #[test]
    fn attributes_lie_in_one_another_in_whole_words() {
        let none = no_generated(7, 3);
        assert_eq!((none.len(), &none[..6]), (48, &[48, 0, 0, 0, 19, 0][..]));
        assert_eq!(none[20..24], 7_u32.to_ne_bytes());
        assert_eq!(none[32..], [16, 0, 26, 0, 12, 0, 10, 0, 5, 0, 8, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn an_answer_is_an_acknowledgment_or_an_error() {
        let answer = |code: i32| {
            let mut answer = vec![0; 36];
            answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            answer[16..20].copy_from_slice(&code.to_ne_bytes());
            answer
        };
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(acknowledged(&answer(-1)).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(acknowledged(&[]).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(acknowledged(&answer(0)[..18]).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
