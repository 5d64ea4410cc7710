//! Starting and stopping: clear errors, and no files left behind.

mod common;

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::Path,
    sync::Arc,
};

use common::{Link, as_ordinary_user, cross, eal, in_own_process, memif, pattern, send};
use dpdk::{DpdkError, Eal, EalConfig, HugePages, Pages, Port, PortConfig};

fn open(eal: &Arc<Eal>, device: &str) -> Result<(), DpdkError> {
    Port::open(eal, &PortConfig { device: device.into(), ..PortConfig::default() }).map(drop)
}

fn cores_allowed() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap().into()
}

#[test]
fn a_second_start_is_refused() {
    in_own_process("a_second_start_is_refused", || {
        let eal = eal();
        assert!(matches!(Eal::init(&EalConfig::default()), Err(DpdkError::AlreadyStarted)));
        drop(eal);
        assert!(matches!(Eal::init(&EalConfig::default()), Err(DpdkError::AlreadyStarted)));
    });
}

#[test]
fn starting_keeps_the_callers_cores() {
    in_own_process("starting_keeps_the_callers_cores", || {
        let before = cores_allowed();
        let eal =
            Eal::init(&EalConfig { main_core: Some(0), memory_mib: 64, ..EalConfig::default() }).unwrap();
        assert_eq!(cores_allowed(), before);
        assert!(dpdk::tsc_hz(&eal) > 100_000_000);
    });
}

#[test]
fn devices_that_cannot_be_opened_are_named_with_the_fix() {
    in_own_process("devices_that_cannot_be_opened_are_named_with_the_fix", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let error = |device: &str| open(&eal, device).unwrap_err().to_string();

        assert!(error("net_nosuch0,x=y").contains("net_nosuch0"));
        assert!(error("0000:ff:1f.7").contains("not in the allow-list"));
        assert!(error("net_memif0,role=neither").contains("net_memif0"));
        assert!(error(&memif(folder.path(), "client", "")).contains("role=server"));

        let device = memif(folder.path(), "server", "");
        let with = |queues, mtu| {
            Port::open(&eal, &PortConfig { device: device.clone(), queues, mtu, ..PortConfig::default() })
        };
        assert!(matches!(with(0, 1500), Err(DpdkError::Queues { asked: 0, .. })));
        assert!(matches!(with(5000, 1500), Err(DpdkError::Queues { asked: 5000, max: 2.., .. })));
        assert!(matches!(with(1, 10), Err(DpdkError::Mtu { asked: 10, .. })));
        assert!(matches!(with(1, u16::MAX), Err(DpdkError::Mtu { .. })));
        // The failures leave no trace.
        let (_port, _pairs) = with(1, 1500).unwrap();
        assert!(matches!(with(1, 1500), Err(DpdkError::AlreadyOpen { .. })));
    });
}

#[test]
fn a_pci_device_that_is_not_there_is_named_before_dpdk_starts() {
    in_own_process("a_pci_device_that_is_not_there_is_named_before_dpdk_starts", || {
        let config = EalConfig { pci_allow: vec!["ff:1f.7".into()], ..EalConfig::default() };
        let error = Eal::init(&config).unwrap_err().to_string();
        assert!(error.contains("no PCI device 0000:ff:1f.7: `stoq-bind-nic status`"), "{error}");
        eal();
    });
}

#[test]
fn too_little_memory_is_named_with_the_fix() {
    in_own_process("too_little_memory_is_named_with_the_fix", || {
        let config = EalConfig { huge_pages: HugePages::None, memory_mib: 64, ..EalConfig::default() };
        let (eal, folder) = (Arc::new(Eal::init(&config).unwrap()), tempfile::tempdir().unwrap());
        let device = memif(folder.path(), "server", "");
        let greedy = PortConfig { device: device.clone(), rx_mbufs: Some(200_000), ..PortConfig::default() };
        let error = Port::open(&eal, &greedy).unwrap_err();
        assert!(error.to_string().contains("memory_mib"), "{error}");
        open(&eal, &device).unwrap();
    });
}

#[test]
fn missing_huge_pages_are_named_with_the_fix() {
    in_own_process("missing_huge_pages_are_named_with_the_fix", || {
        let config =
            EalConfig { huge_pages: HugePages::Required, memory_mib: 1 << 30, ..EalConfig::default() };
        let error = Eal::init(&config).unwrap_err().to_string();
        assert!(error.contains("/proc/sys/vm/nr_hugepages"), "{error}");
        // A refusal before EAL's start leaves the one start unused.
        let config = EalConfig { huge_pages: HugePages::None, memory_mib: 64, ..EalConfig::default() };
        assert_eq!(Eal::init(&config).unwrap().pages(), Pages::Normal);
    });
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    in_own_process("a_stale_socket_is_replaced_and_a_live_one_is_not", || {
        let (eal, folder) = (eal(), tempfile::tempdir().unwrap());
        let (device, socket) = (memif(folder.path(), "server", ""), folder.path().join("memif.sock"));
        let other = UnixListener::bind(&socket).unwrap();
        assert!(matches!(open(&eal, &device), Err(DpdkError::SocketInUse { .. })));
        drop(other);
        assert!(socket.exists(), "stale");

        let config = PortConfig { device, ..PortConfig::default() };
        let (port, pairs) = Port::open(&eal, &config).unwrap();
        // A second port of this process may share the listener.
        let sibling = format!("net_memif7,role=server,id=7,socket={},socket-abstract=no", socket.display());
        let second = Port::open(&eal, &PortConfig { device: sibling, ..PortConfig::default() }).unwrap();
        drop((port, pairs));
        assert!(socket.exists(), "the second port still listens");
        drop(second);
        assert!(!socket.exists());
    });
}

/// Opens, uses and closes ports twice, and the environment after; returns the place of EAL's folder.
fn whole_life(config: &EalConfig) {
    let folder = tempfile::tempdir().unwrap();
    let eal = Arc::new(Eal::init(config).unwrap_or_else(|error| panic!("{error}")));
    for round in 0..2 {
        let mut link = Link::open(&eal, folder.path(), "", &PortConfig::default());
        assert!(send(&mut link.client.1[0], &pattern(round, 777)));
        assert_eq!(cross(&mut link.client.1[0], &mut link.server.1[0], 1), [pattern(round, 777)]);
        // Some frames are in every ring at the close.
        for frame in 0..200 {
            send(&mut link.client.1[0], &pattern(frame, 100));
            send(&mut link.server.1[0], &pattern(frame, 100));
        }
        link.client.1[0].tx.flush();
    }
    drop(eal);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the socket is gone");
}

fn assert_no_trace(prefix: &str) {
    let bases = ["/var/run/dpdk", "/tmp/dpdk", "/dev/hugepages"].map(Path::new);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let hugetlbfs = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("hugetlbfs"));
    let mounted = hugetlbfs.filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for base in bases.into_iter().chain(mounted) {
        let Ok(entries) = fs::read_dir(base) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            assert!(!name.to_string_lossy().starts_with(prefix), "{} is left", entry.path().display());
        }
    }
}

#[test]
fn no_file_is_left_behind() {
    let prefix = format!("stoq-trace-{}", std::process::id());
    in_own_process("no_file_is_left_behind", || {
        let prefix = format!("stoq-trace-{}", std::process::id());
        whole_life(&EalConfig { memory_mib: 128, file_prefix: prefix.clone(), ..EalConfig::default() });
        assert_no_trace(&prefix);
    });
    assert_no_trace(&prefix);
}

#[test]
fn an_ordinary_user_needs_no_huge_pages() {
    as_ordinary_user("an_ordinary_user_needs_no_huge_pages", || {
        assert_ne!(fs::metadata("/proc/self").unwrap().uid(), 0);
        let prefix = format!("stoq-user-{}", std::process::id());
        let config = EalConfig {
            huge_pages: HugePages::None,
            memory_mib: 96,
            file_prefix: prefix.clone(),
            ..EalConfig::default()
        };
        whole_life(&config);
        assert_no_trace(&prefix);
    });
}

#[test]
fn an_ordinary_user_may_prefer_huge_pages() {
    as_ordinary_user("an_ordinary_user_may_prefer_huge_pages", || {
        let prefix = format!("stoq-user-{}", std::process::id());
        whole_life(&EalConfig { memory_mib: 96, file_prefix: prefix.clone(), ..EalConfig::default() });
        assert_no_trace(&prefix);
    });
}
