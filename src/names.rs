//! The addresses of gateways as people write them: IP addresses, link-local addresses with their interface, and host names for the
//! system's resolver.
//!
//! A name only says where to connect; the node ID or the authority decides on trust. A forged answer of the
//! resolver leads a client to a gateway that it refuses.

use crate::limits::{ADDRESSES_LEN_MAX, PORT_DEFAULT};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The address of a gateway: `192.0.2.1:4433`, `[2001:db8::1]:4433`, `[fe80::1%eth0]:4433` or
/// `gateway.example.org:4433`. Without a port, [`PORT_DEFAULT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayAddress {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    /// A link-local address, and the interface that leads to it, by name or number.
    Link(Ipv6Addr, String),
    Name(String),
}

/// The error of a text that is no address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a gateway: {why}")]
pub struct AddressError {
    text: String,
    why: String,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The system's resolver gives no address.
    #[error(
        "the resolver has no address of {name}: {said}; check the name, /etc/resolv.conf and /etc/hosts, or give the address itself"
    )]
    Resolver {
        /// The name.
        name: String,
        /// The resolver's error.
        said: String,
    },
    /// The interface does not exist.
    #[error("this host has no interface {0}; `ip link` lists the interfaces")]
    Interface(String),
    /// The address names an interface of the kernel, and the network is not the kernel's.
    #[error(
        "{0} names an interface of the kernel, and this network is not the kernel's; leave out the % and the interface"
    )]
    Zone(GatewayAddress),
}

impl GatewayAddress {
    /// Its addresses in the order of trying: as the system's resolver sorts them (RFC 6724), alternating
    /// between families (RFC 8305 §4). Blocks while the resolver works.
    ///
    /// # Errors
    /// [`ResolveError`], if the interface does not exist or the resolver has no address.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, ResolveError> {
        let host = match &self.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Link(ip, zone) => {
                if zone.parse::<u32>().is_err() && !is_interface(zone) {
                    return Err(ResolveError::Interface(zone.clone()));
                }
                format!("{ip}%{zone}")
            }
            Host::Name(name) => name.clone(),
        };
        let found = (&*host, self.port).to_socket_addrs().map_err(|error| ResolveError::Resolver {
            said: error.to_string().replace("failed to lookup address information: ", ""),
            name: host.clone(),
        })?;
        Ok(in_turn(found.collect()))
    }

    /// Its address, if no resolver is needed.
    pub fn literal(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, self.port)),
            _ => None,
        }
    }

    /// Whether it names an interface of the kernel.
    pub fn has_zone(&self) -> bool {
        matches!(self.host, Host::Link(..))
    }

    /// Whether the text can only be an address: a single word may be another kind of name.
    pub fn is_meant_by(text: &str) -> bool {
        text.contains([':', '.', '['])
    }
}

/// Whether this interface exists in this process' network namespace: /sys may show those of another.
fn is_interface(name: &str) -> bool {
    let known = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    known.lines().any(|line| line.split_once(':').is_some_and(|(known, _)| known.trim() == name))
}

/// The addresses, alternating between families from that of the first; at most [`ADDRESSES_LEN_MAX`].
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (ours, theirs): (Vec<_>, Vec<_>) = found.into_iter().partition(|at| at.is_ipv6() == first);
    let (mut ours, mut theirs) = (ours.into_iter(), theirs.into_iter());
    let mut sorted: Vec<SocketAddr> = Vec::new();
    loop {
        let pair = [ours.next(), theirs.next()];
        if pair == [None, None] || sorted.len() >= ADDRESSES_LEN_MAX {
            return sorted;
        }
        for address in pair.into_iter().flatten() {
            if !sorted.contains(&address) {
                sorted.push(address);
            }
        }
    }
}

impl From<SocketAddr> for GatewayAddress {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => Host::Link(*v6.ip(), v6.scope_id().to_string()),
            _ => Host::Ip(address.ip().to_canonical()),
        };
        Self { host, port: address.port() }
    }
}

impl FromStr for GatewayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |why: String| AddressError { text: text.to_owned(), why };
        let (host, port, bracketed) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((host, after)) = rest.split_once(']') else {
                    return Err(error("the bracket is not closed; write [2001:db8::1]:4433".into()));
                };
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port), true),
                    None if after.is_empty() => (host, None, true),
                    None => {
                        return Err(error(
                            "a colon and the port follow the bracket, such as [2001:db8::1]:4433".into(),
                        ));
                    }
                }
            }
            None if text.matches(':').count() > 1 => {
                return Err(error(format!(
                    "an IPv6 address stands in brackets, which separate it from its port; write [{text}] or [{text}]:{PORT_DEFAULT}"
                )));
            }
            None => {
                text.split_once(':').map_or((text, None, false), |(host, port)| (host, Some(port), false))
            }
        };
        let port = match port.map(str::parse) {
            None => PORT_DEFAULT,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => return Err(error(format!("a port is 1 to 65535, such as {PORT_DEFAULT}"))),
        };
        let host = if bracketed { ipv6(host) } else { name(host) }.map_err(error)?;
        Ok(Self { host, port })
    }
}

/// The text in brackets.
fn ipv6(text: &str) -> Result<Host, String> {
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    let Ok(ip) = ip.parse::<Ipv6Addr>() else {
        return Err("brackets hold an IPv6 address, such as [2001:db8::1]:4433".into());
    };
    match zone {
        None => Ok(Host::Ip(IpAddr::V6(ip).to_canonical())),
        Some("") => Err("the interface is missing after the %; write [fe80::1%eth0]:4433".into()),
        Some(_) if !ip.is_unicast_link_local() => {
            Err("an interface belongs to link-local addresses (fe80::/10) alone; leave it out".into())
        }
        Some(zone) => Ok(Host::Link(ip, zone.to_owned())),
    }
}

/// An IPv4 address or a host name (RFC 1123 §2.1), with a final dot or without.
fn name(text: &str) -> Result<Host, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(ip.to_canonical()));
    }
    let labels: Vec<_> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if !text.is_ascii() {
        return Err("a host name is written in its ASCII form, xn--…; `idn2` gives it".into());
    }
    let good = |label: &&str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len()) && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() > 254 || !labels.iter().all(good) {
        return Err(
            "a host name has letters, digits, hyphens and dots, such as gateway.example.org:4433".into()
        );
    }
    // RFC 1123 §2.1: no name ends with a label of digits, so this is a mistyped address.
    if labels.last().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("an IPv4 address has four numbers from 0 to 255, such as 192.0.2.1:4433".into());
    }
    Ok(Host::Name(text.to_owned()))
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Link(ip, zone) => write!(f, "[{ip}%{zone}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Serialize for GatewayAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GatewayAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The places of a peer gateway: addresses, and names that a thread of its own resolves. Workers read the
/// known addresses and never wait.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    written: Vec<GatewayAddress>,
    known: Mutex<Vec<SocketAddr>>,
    resolver: Option<Resolver>,
}

/// The thread that calls the system's resolver. It ends with its last user.
#[derive(Clone, Debug)]
pub struct Resolver(Sender<Weak<Asked>>);

impl Resolver {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's error if the thread cannot be started.
    pub fn start() -> std::io::Result<Self> {
        let (ask, asked) = channel();
        std::thread::Builder::new().name("stoq-names".into()).spawn(move || resolve_all(&asked))?;
        Ok(Self(ask))
    }
}

fn resolve_all(asked: &Receiver<Weak<Asked>>) {
    while let Ok(wanted) = asked.recv() {
        let Some(wanted) = wanted.upgrade() else { continue };
        let mut found = Vec::new();
        for written in &wanted.written {
            match written.resolve() {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    tracing::warn!(address = %written, %error, "a peer gateway's address cannot be resolved")
                }
            }
        }
        // Addresses found earlier are better than none.
        if !found.is_empty() {
            *wanted.known.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
    }
}

impl Places {
    /// The places written as `written`; `resolver` resolves names at once, and again at each dial.
    pub fn new(written: Vec<GatewayAddress>, resolver: &Resolver) -> Self {
        let known = written.iter().filter_map(GatewayAddress::literal).collect();
        let names = written.iter().any(|address| address.literal().is_none());
        let resolver = names.then(|| resolver.clone());
        let places = Self(Arc::new(Asked { written, known: Mutex::new(known), resolver }));
        places.ask();
        places
    }

    /// The known addresses. Has names resolved again, for the next dial.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ask();
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether names are among them.
    pub fn has_names(&self) -> bool {
        self.0.resolver.is_some()
    }

    fn ask(&self) {
        if let Some(Resolver(ask)) = &self.0.resolver {
            let _ = ask.send(Arc::downgrade(&self.0));
        }
    }
}

impl From<Vec<SocketAddr>> for Places {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        let written = addresses.iter().copied().map(Into::into).collect();
        Self(Arc::new(Asked { written, known: Mutex::new(addresses), resolver: None }))
    }
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        self.0.written == other.0.written
    }
}

impl Eq for Places {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(text: &str) -> GatewayAddress {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn addresses_in_every_form_are_read_and_written_back() {
        for (text, back) in [
            ("192.0.2.1:4433", "192.0.2.1:4433"),
            ("192.0.2.1", "192.0.2.1:4433"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("[2001:db8::1]", "[2001:db8::1]:4433"),
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
            ("[fe80::1%2]", "[fe80::1%2]:4433"),
            ("gateway.example.org:7", "gateway.example.org:7"),
            ("gateway.example.org.", "gateway.example.org.:4433"),
            ("localhost", "localhost:4433"),
            ("my_host-1:65535", "my_host-1:65535"),
        ] {
            assert_eq!(parsed(text).to_string(), back);
            assert_eq!(parsed(back), parsed(text));
        }
    }

    #[test]
    fn a_text_that_is_no_address_is_refused_with_a_right_example() {
        for (text, why) in [
            ("", "letters"),
            ("2001:db8::1", "[2001:db8::1]:4433"),
            ("::1:4433", "brackets"),
            ("[2001:db8::1", "not closed"),
            ("[2001:db8::1]4433", "colon"),
            ("[192.0.2.1]:4433", "IPv6"),
            ("[fe80::1%]:4433", "interface is missing"),
            ("[2001:db8::1%eth0]:4433", "link-local"),
            ("192.0.2.1:0", "1 to 65535"),
            ("192.0.2.1:65536", "1 to 65535"),
            ("192.0.2.1:", "1 to 65535"),
            ("host:http", "1 to 65535"),
            ("300.0.2.1:4433", "0 to 255"),
            ("192.0.2:4433", "0 to 255"),
            ("a b:4433", "letters"),
            ("-a.example:4433", "letters"),
            ("a..b:4433", "letters"),
            ("https://a.example", "1 to 65535"),
            ("grün.example:4433", "xn--"),
        ] {
            let error = text.parse::<GatewayAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!("a".repeat(64).parse::<GatewayAddress>().is_err());
    }

    #[test]
    fn the_families_take_turns_and_the_first_stays_first() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [a, b, c] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"].map(at);
        let [x, y] = ["192.0.2.1:1", "192.0.2.2:1"].map(at);
        assert_eq!(in_turn(vec![a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(in_turn(vec![x, a, a]), [x, a]);
        let many = (1..=200).map(|n| SocketAddr::from(([192, 0, 2, n], 1))).collect();
        assert!(in_turn(many).len() <= ADDRESSES_LEN_MAX + 1);
        assert!(in_turn(Vec::new()).is_empty());
    }

    #[test]
    fn names_are_resolved_by_the_system_and_its_error_is_reported() {
        let found = parsed("localhost:7").resolve().unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|at| at.ip().is_loopback() && at.port() == 7),
            "{found:?}"
        );
        // RFC 6761 §6.4: never resolves.
        let error = parsed("nowhere.invalid").resolve().unwrap_err().to_string();
        assert!(error.contains("nowhere.invalid") && error.contains("/etc/hosts"), "{error}");
        let error = parsed("[fe80::1%no-such-interface]").resolve().unwrap_err().to_string();
        assert!(error.contains("no-such-interface") && error.contains("ip link"), "{error}");
        let link = parsed("[fe80::1%lo]:7").resolve().unwrap();
        assert!(matches!(link[..], [SocketAddr::V6(at)] if at.scope_id() == 1), "{link:?}");
    }

    #[test]
    fn a_peer_gateways_names_become_addresses_without_a_waiting_worker() {
        let resolver = Resolver::start().unwrap();
        let places = Places::new(vec![parsed("localhost:7"), parsed("nowhere.invalid")], &resolver);
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while places.addresses().is_empty() {
            assert!(std::time::Instant::now() < give_up, "the name is never resolved");
            std::thread::yield_now();
        }
        assert!(places.addresses()[0].ip().is_loopback());
        let plain = Places::new(vec![parsed("192.0.2.1:7")], &resolver);
        assert_eq!(plain.addresses(), [SocketAddr::from(([192, 0, 2, 1], 7))]);
        assert!(!plain.has_names());
    }
}
