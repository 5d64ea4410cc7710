//! A removal is durable when it returns, also while another thread makes removals durable.

use super::{BLOCK, payload, put};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoq::seed::{Disk, Store, StoreConfig};
use stoq::token::Token;

/// A disk that stops where a test wants it: at the first file that is removed, and at the next sync of a directory.
#[derive(Debug)]
struct StoppingDisk {
    armed: AtomicBool,
    synced: AtomicBool,
    stops: Sender<&'static str>,
    at_removal: Mutex<Receiver<()>>,
    at_sync: Mutex<Receiver<()>>,
}

impl Disk for StoppingDisk {
    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.armed.swap(false, SeqCst) {
            self.stops.send("removal").unwrap();
            self.at_removal.lock().unwrap().recv().unwrap();
        }
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        if std::thread::current().name() == Some("syncing") {
            self.stops.send("sync").unwrap();
            self.at_sync.lock().unwrap().recv().unwrap();
            self.synced.store(true, SeqCst);
        }
        Ok(())
    }
}

#[test]
fn a_removal_does_not_return_while_another_thread_syncs_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (stops, stopped) = channel();
    let ((go_on_removing, at_removal), (go_on_syncing, at_sync)) = (channel(), channel());
    let disk = Arc::new(StoppingDisk {
        armed: AtomicBool::new(false),
        synced: AtomicBool::new(false),
        stops,
        at_removal: Mutex::new(at_removal),
        at_sync: Mutex::new(at_sync),
    });
    let store = Store::open_on(dir.path(), StoreConfig::default(), disk.clone()).unwrap();
    let bytes = payload(BLOCK);
    put(&store, &bytes).unwrap();
    disk.armed.store(true, SeqCst);
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| {
            assert!(store.remove(Token::of(&bytes)).unwrap());
            disk.synced.load(SeqCst)
        });
        assert_eq!(stopped.recv(), Ok("removal"));
        let syncing = std::thread::Builder::new().name("syncing".into());
        let syncing = syncing.spawn_scoped(scope, || store.sync_removals()).unwrap();
        assert_eq!(stopped.recv(), Ok("sync"));
        go_on_removing.send(()).unwrap();
        // One that does not wait for the sync ends here. One that waits is never late.
        for _ in 0..100 {
            if removing.is_finished() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        go_on_syncing.send(()).unwrap();
        syncing.join().unwrap().unwrap();
        assert!(removing.join().unwrap(), "the removal returned before its directory was synced");
    });
}
