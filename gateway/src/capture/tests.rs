//! A tapped device, a capture server and a recorder.

use super::*;
use rustls::KeyLog;
use stoq::nic::simulated::{LinkConfig, SimulatedLink, SimulatedNic};
use stoq::nic::tap::Tapped;
use stoq::nic::{Nic, TxKind};
use tempfile::TempDir;

/// A frame of UDP to this port.
fn frame(port: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame
}

struct Setup {
    directory: TempDir,
    tap: Arc<Tap>,
    nic: Tapped<SimulatedNic>,
    server: CaptureServer,
}

impl Setup {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let tap = Arc::new(Tap::default());
        let nic = SimulatedLink::new(LinkConfig::default()).add_station([2; 6], 1).remove(0);
        let nic = Tapped::new(nic, tap.clone(), 0, Instant::now());
        let server =
            CaptureServer::start(&directory.path().join("socket"), vec!["net_test0".into()], tap.clone())
                .unwrap();
        Self { directory, tap, nic, server }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Records on another thread.
    fn record(&self, filter: &str, until: Until) -> JoinHandle<anyhow::Result<(u64, Vec<u8>)>> {
        let (socket, wanted) = (self.socket(), Wanted { filter: filter.into(), sample: 1 });
        std::thread::spawn(move || {
            let (mut file, mut begun) = (Vec::new(), 0);
            let frames = record(&socket, &wanted, &until, &mut file, || {
                begun += 1;
                Ok(())
            })?;
            assert_eq!(begun, 1, "it says once that it begins");
            Ok((frames, file))
        })
    }

    /// Sends frames to both ports until the recording is over.
    fn send_until_over<T>(&mut self, recording: &JoinHandle<T>) {
        while !recording.is_finished() {
            self.nic.rx_burst(Instant::now(), |_, _| ());
            for port in [4433, 5000] {
                let frame = frame(port);
                self.nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(&frame));
            }
            self.nic.tx_flush(Instant::now());
            Secrets(self.tap.clone()).log("CLIENT_TRAFFIC_SECRET_0", &[1; 2], &[0xab; 2]);
            std::thread::yield_now();
        }
    }
}

/// The blocks of a file: type and body.
fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let (kind, len) = next_block(file).unwrap().expect("whole blocks");
        blocks.push((kind, file[8..len - 4].to_vec()));
        file = &file[len..];
    }
    blocks
}

#[test]
fn a_capture_has_the_frames_that_match_the_filter() {
    let mut setup = Setup::new();
    let recording = setup.record("udp port 4433", Until { frames: Some(20), ..Until::default() });
    setup.send_until_over(&recording);
    let (frames, file) = recording.join().unwrap().unwrap();
    assert_eq!(frames, 20);
    let blocks = blocks(&file);
    assert_eq!((blocks[0].0, blocks[1].0), (pcapng::SECTION, 1));
    let packets: Vec<_> = blocks.iter().filter(|(kind, _)| *kind == pcapng::PACKET).collect();
    assert_eq!(packets.len(), 20);
    for (_, body) in packets {
        assert_eq!(body[20..20 + 42], frame(4433)[..]);
        let seconds =
            (u64::from_le_bytes([&body[8..12], &body[4..8]].concat().try_into().unwrap())) / 1_000_000_000;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(seconds) < 600, "{seconds}");
    }
    let secrets = blocks.iter().find(|(kind, _)| *kind == 10).expect("secrets");
    assert!(secrets.1[8..].starts_with(b"CLIENT_TRAFFIC_SECRET_0 0101 abab\n"));
    assert_eq!(blocks.last().unwrap().0, 5, "what was dropped stands at the end");
}

#[test]
fn a_capture_ends_when_it_is_stopped_and_the_next_can_begin() {
    let mut setup = Setup::new();
    for _ in 0..2 {
        let until = Until::default();
        let recording = setup.record("arp", until.clone());
        // No frame matches, so only the flag ends the capture.
        until.stopped.store(true, Ordering::Relaxed);
        setup.send_until_over(&recording);
        assert_eq!(recording.join().unwrap().unwrap().0, 0);
    }
    setup.tap.add_secret(|| unreachable!("no capture runs"));
}

#[test]
fn a_capture_has_all_frames_that_passed_before_its_end() {
    let mut setup = Setup::new();
    let until = Until::default();
    let recording = setup.record("udp port 4433", until.clone());
    let deadline = Instant::now() + PATIENCE;
    while setup.tap.take_secret().is_none() {
        setup.tap.add_secret(|| "a\n".into());
        assert!(Instant::now() < deadline || recording.is_finished());
        std::thread::yield_now();
    }
    // More than the server takes at one look at the socket, and no more than the ring holds.
    let passed = 3 * BATCH_LEN;
    setup.nic.rx_burst(Instant::now(), |_, _| ());
    for _ in 0..passed {
        let frame = frame(4433);
        assert!(setup.nic.tx_frame(TxKind::Plain, frame.len(), |out| out.copy_from_slice(&frame)));
        setup.nic.tx_flush(Instant::now());
    }
    until.stopped.store(true, Ordering::Relaxed);
    let (frames, file) = recording.join().unwrap().unwrap();
    assert_eq!((frames, setup.tap.dropped()), (passed as u64, 0));
    assert_eq!(blocks(&file).last().unwrap().0, 5, "what was dropped stands at the end");
}

#[test]
fn a_second_capture_and_an_invalid_filter_are_refused() {
    let setup = Setup::new();
    let until = Until::default();
    let first = setup.record("", until.clone());
    // The first one captures once the tap copies.
    let deadline = Instant::now() + PATIENCE;
    while setup.tap.take_secret().is_none() {
        setup.tap.add_secret(|| "a\n".into());
        assert!(Instant::now() < deadline || first.is_finished());
        std::thread::yield_now();
    }
    let second = setup.record("", Until::default()).join().unwrap().unwrap_err();
    assert!(second.to_string().contains("another capture"), "{second}");
    until.stopped.store(true, Ordering::Relaxed);
    first.join().unwrap().unwrap();
    let bad = setup.record("tcp", Until::default()).join().unwrap().unwrap_err();
    assert!(bad.to_string().contains("\"tcp\""), "{bad}");
    let mut stream = UnixStream::connect(setup.socket()).unwrap();
    stream.write_all(b"{\"filter\":\"tcp\",\"sample\":1}\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"tcp\""), "{answer}");
}

#[test]
fn only_the_owner_may_open_the_socket_and_it_is_removed_with_the_gateway() {
    let setup = Setup::new();
    let socket = setup.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let Err(error) = CaptureServer::start(&socket, vec!["other".into()], setup.tap.clone()) else {
        panic!("it is taken")
    };
    assert!(format!("{error:#}").contains("another gateway"));
    drop(setup.server);
    assert!(!socket.exists());
    // The socket of a killed gateway is replaced; a file of another kind is not.
    drop(UnixListener::bind(&socket).unwrap());
    drop(CaptureServer::start(&socket, vec!["other".into()], setup.tap.clone()).unwrap());
    std::fs::write(&socket, b"a file").unwrap();
    assert!(CaptureServer::start(&socket, vec!["other".into()], setup.tap.clone()).is_err());
    assert_eq!(std::fs::read(&socket).unwrap(), b"a file");
}

#[test]
fn a_socket_of_another_program_and_a_path_that_is_no_socket_stay() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let _others = std::os::unix::net::UnixDatagram::bind(path("datagrams")).unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    std::fs::write(path("file"), b"precious").unwrap();
    for (name, says) in [
        ("datagrams", "is a socket of another program"),
        ("directory", "exists already and is no socket"),
        ("file", "exists already and is no socket"),
    ] {
        let error = format!("{:#}", can_listen(&path(name)).unwrap_err());
        assert!(error.contains(says) && error.contains("name another path"), "{name}: {error}");
        assert!(path(name).exists(), "{name}");
    }
    // One that a killed gateway left is replaced.
    drop(UnixListener::bind(path("left")).unwrap());
    can_listen(&path("left")).unwrap();
}
