//! InterfaceAddresses of an interface, by the kernel's rtnetlink (rtnetlink(7)).

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, sendto, socket_with,
};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Of linux/rtnetlink.h, linux/netlink.h and linux/if_addr.h.
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
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
    addresses: Vec<IpAddr>,
    sequence: u32,
}

impl InterfaceAddresses {
    /// Those of the interface of this name.
    ///
    /// # Errors
    /// There is no such interface, or no socket.
    pub(super) fn new(interface: &str, addresses: &[IpAddr]) -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE, whose number is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let index = netdevice::name_to_index(&socket, interface)?;
        Ok(Self { socket, index, addresses: addresses.to_vec(), sequence: 0 })
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

    fn change_each(&mut self, change: AddressChange) -> io::Result<()> {
        let results: Vec<_> =
            self.addresses.clone().into_iter().map(|address| self.change_one(address, change)).collect();
        results.into_iter().collect()
    }

    fn change_one(&mut self, address: IpAddr, change: AddressChange) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(address, change, self.index, self.sequence);
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 4096];
        let (len, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        match (acknowledged(&answer[..len]), change) {
            (Err(error), AddressChange::Remove) if error.kind() == ErrorKind::AddrNotAvailable => Ok(()),
            (result, _) => result,
        }
    }
}

/// Whether there is an interface of this name.
pub(super) fn is_interface(name: &str) -> bool {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
    socket.is_ok_and(|socket| netdevice::name_to_index(&socket, name).is_ok())
}

impl fmt::Display for InterfaceAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(" "))
    }
}

/// A request that puts one address on the interface of this index, or takes it off.
fn request(address: IpAddr, change: AddressChange, index: u32, sequence: u32) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let prefix_len = bytes.len() as u8 * 8;
    let (kind, more) = match change {
        AddressChange::Add => (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE),
        AddressChange::Remove => (RTM_DELADDR, 0),
    };
    let mut body = vec![family.as_raw() as u8, prefix_len, IFA_F_NODAD, 0];
    body.extend(index.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        body.extend((4 + bytes.len() as u16).to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(&bytes);
    }
    let mut message = Vec::with_capacity(HEADER_LEN + body.len());
    message.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | more).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
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
        let added = request("203.0.113.1".parse().unwrap(), AddressChange::Add, 7, 3);
        assert_eq!(added.len(), 16 + 8 + 2 * 8);
        assert_eq!(added[..4], 40_u32.to_ne_bytes());
        assert_eq!(added[4..6], RTM_NEWADDR.to_ne_bytes());
        assert_eq!(added[16..20], [2, 32, IFA_F_NODAD, 0]);
        assert_eq!(added[20..24], 7_u32.to_ne_bytes());
        assert_eq!(added[28..32], [203, 0, 113, 1]);
        let removed = request("2001:db8::1".parse().unwrap(), AddressChange::Remove, 7, 4);
        assert_eq!((removed.len(), removed[16], removed[17]), (16 + 8 + 2 * 20, 10, 128));
        assert_eq!(removed[4..6], RTM_DELADDR.to_ne_bytes());
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
