//! A configured device string, and the preconditions of its device before DPDK opens it.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use crate::{
    eal::Eal,
    error::{DpdkError, reason},
    pci, plug_in,
};

/// memif's default buffer size, bytes.
const MEMIF_BSIZE_DEFAULT: u16 = 2048;

/// A device in the form for DPDK's hotplug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// A PCI address in full: `0000:00:04.0`.
    Pci(String),
    /// A virtual device: its name begins with its driver's.
    Virtual { name: String, args: String, memif: Option<Memif> },
}

/// The arguments of a memif device that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memif {
    pub(crate) server: bool,
    /// The socket's path, unless it is abstract.
    pub(crate) socket: Option<PathBuf>,
    /// Bytes of one shared buffer. Both ends copy whole frames at once only if their mbufs have exactly
    /// this room.
    pub(crate) bsize: u16,
}

impl Device {
    /// Parses a PCI address or a vdev string. `frame_bytes` is the largest frame that must fit: a memif
    /// without a `bsize=` of its own gets buffers of that size.
    pub(crate) fn parse(text: &str, frame_bytes: u16) -> Result<Self, DpdkError> {
        if text.is_empty() || text.contains(|c: char| c == '\0' || c.is_whitespace()) {
            return Err(DpdkError::InvalidArgument(text.into()));
        }
        if let Some(address) = pci::address(text) {
            return Ok(Self::Pci(address));
        }
        let (name, args) = text.split_once(',').unwrap_or((text, ""));
        let (name, mut args) = (name.to_owned(), args.to_owned());
        let memif = name.starts_with("net_memif").then(|| {
            let value = |key: &str| args.split(',').find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='));
            // memif's own defaults: a client, on an abstract socket.
            let socket = (value("socket-abstract") == Some("no"))
                .then(|| PathBuf::from(value("socket").unwrap_or("/run/memif.sock")));
            let bsize = value("bsize").map(|bsize| bsize.parse().unwrap_or(MEMIF_BSIZE_DEFAULT));
            Memif {
                server: matches!(value("role"), Some("server" | "master")),
                socket,
                bsize: bsize.unwrap_or_else(|| memif_bsize(frame_bytes)),
            }
        });
        if let Some(memif) = &memif
            && memif.bsize != MEMIF_BSIZE_DEFAULT
            && !args.split(',').any(|arg| arg.starts_with("bsize="))
        {
            if !args.is_empty() {
                args.push(',');
            }
            args.push_str(&format!("bsize={}", memif.bsize));
        }
        Ok(Self::Virtual { name, args, memif })
    }

    pub(crate) fn bus(&self) -> &'static str {
        match self {
            Self::Pci(_) => "pci",
            Self::Virtual { .. } => "vdev",
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Virtual { name, .. } => name,
        }
    }

    pub(crate) fn args(&self) -> &str {
        match self {
            Self::Pci(_) => "",
            Self::Virtual { args, .. } => args,
        }
    }

    /// Whether its driver is net_af_xdp.
    pub(crate) fn is_af_xdp(&self) -> bool {
        matches!(self, Self::Virtual { name, .. } if name.starts_with("net_af_xdp"))
    }

    pub(crate) fn memif(&self) -> Option<&Memif> {
        match self {
            Self::Virtual { memif, .. } => memif.as_ref(),
            Self::Pci(_) => None,
        }
    }
}

fn memif_bsize(frame_bytes: u16) -> u16 {
    if frame_bytes <= MEMIF_BSIZE_DEFAULT {
        MEMIF_BSIZE_DEFAULT
    } else {
        frame_bytes.checked_next_multiple_of(1024).unwrap_or(frame_bytes)
    }
}

/// Whether a process listens on a socket. The check connects a stream socket, which a memif listener (of
/// packets) refuses without noticing it.
fn listens(path: &Path) -> io::Result<bool> {
    const EPROTOTYPE: i32 = 91;
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(EPROTOTYPE) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Prepares the path of a memif listener: removes the socket that an earlier process left, never one in use.
pub(crate) fn clear_stale_socket(path: &Path) -> Result<(), DpdkError> {
    let unusable = |reason: String| DpdkError::SocketPath { path: path.into(), reason };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            return if folder.is_dir() {
                Ok(())
            } else {
                Err(DpdkError::NoSocketFolder { folder: folder.into() })
            };
        }
        other => other.map_err(|error| unusable(error.to_string()))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(unusable("it is not a socket".into()));
    }
    match listens(path) {
        Ok(true) => Err(DpdkError::SocketInUse { path: path.into() }),
        Ok(false) => fs::remove_file(path).map_err(|error| unusable(error.to_string())),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// A memif client that finds no server when it starts is refused: its server must listen before that.
pub(crate) fn require_listener(path: &Path) -> Result<(), DpdkError> {
    match listens(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DpdkError::NoServer { path: path.into() }),
        Err(error) => Err(DpdkError::SocketPath { path: path.into(), reason: error.to_string() }),
    }
}

pub(crate) fn c_string(text: &str) -> Result<CString, DpdkError> {
    CString::new(text).map_err(|_| DpdkError::InvalidArgument(text.into()))
}

pub(crate) fn find(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a C string, and a valid place for the result.
    let code = unsafe { dpdk_sys::stoq_port_find(name.as_ptr(), &mut id) };
    (code == 0).then_some(id)
}

pub(crate) fn hotplug(eal: &Eal, device: &Device) -> Result<u16, DpdkError> {
    if let Device::Pci(address) = device
        && !eal.pci_allow.iter().any(|allowed| address.ends_with(allowed.as_str()))
    {
        return Err(DpdkError::NotAllowed { device: address.clone() });
    }
    let (bus, name, args) = (c_string(device.bus())?, c_string(device.name())?, c_string(device.args())?);
    // SAFETY: three C strings, which DPDK copies.
    let code = unsafe { dpdk_sys::stoq_device_add(bus.as_ptr(), name.as_ptr(), args.as_ptr()) };
    if code < 0 {
        let package = plug_in::package(device, Path::new("/sys"));
        let device = match device {
            Device::Pci(address) => address.clone(),
            Device::Virtual { name, args, .. } if args.is_empty() => name.clone(),
            Device::Virtual { name, args, .. } => format!("{name},{args}"),
        };
        return Err(DpdkError::Probe { device, package, reason: reason(code) });
    }
    find(device.name()).ok_or_else(|| {
        // SAFETY: two C strings; the device was made just above and nothing uses it.
        unsafe { dpdk_sys::stoq_device_remove(bus.as_ptr(), name.as_ptr()) };
        DpdkError::NoPort { device: device.name().into() }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn pci_addresses_are_distinguished_from_vdevs() {
        assert_eq!(Device::parse("0000:3B:00.1", 1518).unwrap(), Device::Pci("0000:3b:00.1".into()));
        assert_eq!(Device::parse("3b:00.1", 1518).unwrap(), Device::Pci("0000:3b:00.1".into()));
        for text in ["net_memif0", "net_af_packet0,iface=eth0.100", "3b:00.9", "0:0:0:0.1"] {
            assert!(matches!(Device::parse(text, 1518).unwrap(), Device::Virtual { .. }), "{text}");
        }
        assert!(Device::parse("", 1518).is_err());
        assert!(Device::parse("net_memif0, id=0", 1518).is_err());
    }

    #[test]
    fn memif_buffers_grow_with_the_frame_unless_given() {
        let memif = |text, frame| Device::parse(text, frame).unwrap();
        assert_eq!(memif("net_memif0,id=0", 1518).args(), "id=0");
        assert_eq!(memif("net_memif0,id=0", 9018).args(), "id=0,bsize=9216");
        assert_eq!(memif("net_memif0", 9018).args(), "bsize=9216");
        assert_eq!(memif("net_memif0,bsize=4096", 9018).args(), "bsize=4096");
        assert_eq!(memif("net_memif0,bsize=4096", 9018).memif().unwrap().bsize, 4096);
        assert_eq!(memif("net_memif0", u16::MAX).memif().unwrap().bsize, u16::MAX);
    }

    #[test]
    fn only_a_socket_with_a_path_is_checked() {
        let socket = |text| Device::parse(text, 1518).unwrap().memif().unwrap().socket.clone();
        assert_eq!(socket("net_memif0,socket=/tmp/x"), None);
        assert_eq!(socket("net_memif0,socket=/tmp/x,socket-abstract=no"), Some("/tmp/x".into()));
    }

    #[test]
    fn a_stale_socket_is_removed_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memif.sock");
        clear_stale_socket(&path).unwrap();
        assert!(matches!(require_listener(&path), Err(DpdkError::NoServer { .. })));

        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(clear_stale_socket(&path), Err(DpdkError::SocketInUse { .. })));
        require_listener(&path).unwrap();

        drop(listener);
        assert!(path.exists());
        clear_stale_socket(&path).unwrap();
        assert!(!path.exists());

        let error = clear_stale_socket(&folder.path().join("none/memif.sock")).unwrap_err().to_string();
        assert!(error.contains("none of a memif socket is missing: `mkdir -p "), "{error}");

        fs::write(&path, "not a socket").unwrap();
        assert!(matches!(clear_stale_socket(&path), Err(DpdkError::SocketPath { .. })));
        assert!(path.exists());
    }
}
