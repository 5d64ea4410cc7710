//! Frames over net_af_xdp: both ends of a veth pair, in a network namespace of its own. Needs root and `ip`.

mod common;

use std::{
    env,
    process::{self, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{pattern, send};
use dpdk::{DpdkError, Eal, EalConfig, HugePages, Port, PortConfig, QueuePair};

const CHILD: &str = "DPDK_TEST_CHILD";
/// Frames sent each way: several times the buffers of both ports, hence the loss of a buffer in one of them is noticed.
const FRAMES: usize = 30_000;
/// Frames in flight: fewer than the receive ring holds.
const WINDOW: usize = 500;
/// The time for all of them, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// EtherType for local experiments (IEEE Std 802): the kernel sends none.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// A network namespace with a veth pair, `near` and `far`, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("{name}-{}", process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        ip(&["-n", &namespace.0, "link", "add", "near", "type", "veth", "peer", "name", "far"]);
        for end in ["near", "far"] {
            ip(&["-n", &namespace.0, "link", "set", end, "up"]);
        }
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // After a failure, another one would abort the process, and hide the first.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("`ip` of iproute2");
    assert!(status.success(), "ip {}: {status}; these tests need root", arguments.join(" "));
}

/// Runs a scenario in a process of its own in a namespace of its own. `name` is the calling test's name.
fn in_own_namespace(name: &str, short: &str, scenario: impl FnOnce()) {
    if env::var_os(CHILD).is_some() {
        return scenario();
    }
    let namespace = Namespace::new(short);
    let program = env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.0]).arg(program).args([name, "--exact", "--nocapture"]);
    let output = command.env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = pattern(number, len);
    frame[..12].fill(0xff);
    frame[12..14].copy_from_slice(&ETHER_TYPE);
    frame
}

fn len_of(number: usize, longest: usize) -> usize {
    60 + number * 7 % (longest - 59)
}

fn open(eal: &Arc<Eal>, number: u8, interface: &str, mtu: u16) -> Result<(Port, Vec<QueuePair>), DpdkError> {
    let device = format!("net_af_xdp{number},iface={interface}");
    Port::open(eal, &PortConfig { device, mtu, ..PortConfig::default() })
}

/// Sends [`FRAMES`] frames each way at the same time. Each must arrive, in order and byte for byte.
///
/// On an unregistered thread: without a cache of buffers, every buffer of the pools has its turn.
fn cross_under_load(near: &mut QueuePair, far: &mut QueuePair, longest: usize) {
    let crossed = thread::scope(|scope| scope.spawn(|| cross(near, far, longest)).join());
    assert!(crossed.is_ok(), "frames were lost");
}

fn cross(near: &mut QueuePair, far: &mut QueuePair, longest: usize) {
    let (mut sent, mut got) = ([0; 2], [0; 2]);
    let deadline = Instant::now() + PATIENCE;
    while got != [FRAMES; 2] {
        assert!(Instant::now() < deadline, "{got:?} of {FRAMES} frames arrived, {sent:?} were sent");
        for way in 0..2 {
            let (from, to) = if way == 0 { (&mut *near, &mut *far) } else { (&mut *far, &mut *near) };
            while sent[way] < FRAMES
                && sent[way] - got[way] < WINDOW
                && send(from, &frame(sent[way], len_of(sent[way], longest)))
            {
                sent[way] += 1;
            }
            from.tx.flush();
            to.rx.rx_burst(64).for_each(|received| {
                if received.data[12..14] == ETHER_TYPE {
                    let expected = frame(got[way], len_of(got[way], longest));
                    assert!(
                        received.data == expected,
                        "frame {} of way {way} is missing or damaged",
                        got[way]
                    );
                    got[way] += 1;
                }
            });
        }
    }
}

fn both_ways_on(huge_pages: HugePages) {
    let eal =
        Arc::new(Eal::init(&EalConfig { huge_pages, memory_mib: 256, ..EalConfig::default() }).unwrap());
    let (_near, mut near) = open(&eal, 0, "near", 1500).unwrap();
    let (_far, mut far) = open(&eal, 1, "far", 1500).unwrap();
    cross_under_load(&mut near[0], &mut far[0], 1514);
    let free = near[0].buffers_available();
    cross_under_load(&mut near[0], &mut far[0], 1514);
    // The rings' contents differ by some bursts; a loss takes thousands.
    assert!(near[0].buffers_available().0 + 1024 > free.0, "{free:?}, now {:?}", near[0].buffers_available());
}

#[test]
fn no_frame_is_lost_on_normal_pages() {
    in_own_namespace("no_frame_is_lost_on_normal_pages", "stoqn", || both_ways_on(HugePages::None));
}

#[test]
fn no_frame_is_lost_on_huge_pages() {
    in_own_namespace("no_frame_is_lost_on_huge_pages", "stoqh", || both_ways_on(HugePages::Preferred));
}

#[test]
fn the_largest_mtu_crosses_and_a_larger_one_is_refused() {
    in_own_namespace("the_largest_mtu_crosses_and_a_larger_one_is_refused", "stoqm", || {
        for end in ["near", "far"] {
            ip(&["link", "set", end, "mtu", "3498"]);
        }
        let config = EalConfig { huge_pages: HugePages::None, memory_mib: 256, ..EalConfig::default() };
        let eal = Arc::new(Eal::init(&config).unwrap());
        let Err(DpdkError::Mtu { max, .. }) = open(&eal, 0, "near", 4000) else {
            panic!("4000 is too large")
        };
        assert_eq!(max, 3502);
        let (_near, mut near) = open(&eal, 0, "near", 3498).unwrap();
        let (_far, mut far) = open(&eal, 1, "far", 3498).unwrap();
        cross_under_load(&mut near[0], &mut far[0], 3498 + 14);
    });
}
