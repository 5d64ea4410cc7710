//! The process that holds a port, a Unix socket or a file's lock, as far as this user may see it. Messages name it.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A process that holds a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its command line.
    pub command: Vec<String>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (`{}`)", self.pid, self.command.join(" "))
    }
}

impl Process {
    fn of(pid: u32) -> Self {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = command.split(|&byte| byte == 0).filter(|part| !part.is_empty());
        Self { pid, command: command.map(|part| String::from_utf8_lossy(part).into_owned()).collect() }
    }
}

/// Processes with a UDP socket that conflicts with one on `address`.
pub fn of_udp(address: SocketAddr) -> Vec<Process> {
    of_socket(&["udp", "udp6"], address)
}

/// Processes with a TCP socket that conflicts with one on `address`.
pub fn of_tcp(address: SocketAddr) -> Vec<Process> {
    of_socket(&["tcp", "tcp6"], address)
}

/// Processes that have locked this file.
pub fn of_lock(file: &Path) -> Vec<Process> {
    let Ok(inode) = fs::metadata(file).map(|file| file.ino()) else { return Vec::new() };
    // proc_locks(5): "1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF"
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let (pid, place) = (words.next()?, words.next()?);
        let found = place.rsplit(':').next()?.parse::<u64>().ok()? == inode;
        if found { pid.parse().ok() } else { None }
    });
    held.map(Process::of).collect()
}

/// Processes that have this file open.
pub fn of_file(file: &Path) -> Vec<Process> {
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|open| fs::read_link(open.path()).ok()).any(|open| open == file)
    };
    processes().filter(has).map(Process::of).collect()
}

/// Every process; their command lines are open to all users.
pub fn all() -> impl Iterator<Item = Process> {
    processes().map(Process::of)
}

/// Processes that serve a Unix socket at this path.
pub fn of_unix(path: &Path) -> Vec<Process> {
    let (Ok(wanted), Some(name)) = (fs::canonicalize(path), path.file_name()) else { return Vec::new() };
    // proc_pid_net(5): Num RefCount Protocol Flags Type St Inode Path, the path as its process gave it to bind.
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let bound = text.lines().skip(1).filter_map(|line| {
        let mut rest = line;
        for _ in 0..6 {
            rest = rest.trim_start().split_once(' ')?.1;
        }
        let (inode, bound) = rest.trim_start().split_once(' ')?;
        let (inode, bound) = (inode.parse::<u64>().ok()?, Path::new(bound));
        (bound.file_name() == Some(name)).then(|| (inode, bound.to_owned()))
    });
    let bound: Vec<_> = bound.collect();
    let serves = |pid: u32| {
        let directory = PathBuf::from(format!("/proc/{pid}/cwd"));
        bound.iter().any(|(inode, bound)| {
            has_socket(pid, &[*inode])
                && fs::canonicalize(directory.join(bound)).is_ok_and(|bound| bound == wanted)
        })
    };
    processes().filter(|&pid| serves(pid)).map(Process::of).collect()
}

fn of_socket(tables: &[&str], address: SocketAddr) -> Vec<Process> {
    let wanted = address.ip().to_canonical();
    let in_the_way = |local: SocketAddr| {
        let ip = local.ip().to_canonical();
        local.port() == address.port() && (ip == wanted || ip.is_unspecified() || wanted.is_unspecified())
    };
    let mut inodes = Vec::new();
    for table in tables {
        let text = fs::read_to_string(Path::new("/proc/net").join(table)).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            let local = local(words.nth(1)?)?;
            // After the local address: remote, state, queues, timer, retransmissions, user, timeout, inode.
            let inode: u64 = words.nth(7)?.parse().ok()?;
            in_the_way(local).then_some(inode)
        }));
    }
    let mut found: Vec<_> = processes().filter(|&pid| has_socket(pid, &inodes)).map(Process::of).collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

/// An address of /proc/net: hexadecimal words in the machine's order, a colon, the port.
fn local(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_socket(pid: u32, inodes: &[u64]) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| {
        let name = target.to_string_lossy();
        let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_process_that_has_a_port_or_a_lock_is_found() {
        let own = std::process::id();
        let is_own = |found: Vec<Process>| found.iter().any(|holder| holder.pid == own);
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let udp = UdpSocket::bind(at).unwrap();
            let local = udp.local_addr().unwrap();
            assert!(is_own(of_udp(local)), "{local}");
            let wildcard = if local.is_ipv4() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            assert!(is_own(of_udp(SocketAddr::new(wildcard, local.port()))), "{local} stands in the way");
            drop(udp);
            assert!(!is_own(of_udp(local)));
        }
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_own(of_tcp(tcp.local_addr().unwrap())));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a socket");
        let unix = UnixListener::bind(&path).unwrap();
        assert!(is_own(of_unix(&path)));
        assert!(!is_own(of_unix(&directory.path().join("another"))));
        drop(unix);
        assert!(!is_own(of_unix(&path)));
        let path = directory.path().join("lock");
        let file = File::create(&path).unwrap();
        assert!(is_own(of_file(&path)) && is_own(all().collect()));
        assert!(!is_own(of_lock(&path)));
        file.lock().unwrap();
        assert!(is_own(of_lock(&path)));
    }
}
