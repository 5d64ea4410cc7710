//! A removal is durable when it returns, also while another thread makes removals durable.

use super::{BLOCK, payload, put_as};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoq::seed::{Disk, Lease, Store, StoreConfig};

/// A disk whose syncs of directories wait for a test on one thread.
#[derive(Debug)]
struct StoppingDisk {
    synced: AtomicBool,
    stops: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Disk for StoppingDisk {
    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        if std::thread::current().name() == Some("syncing") {
            self.stops.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
            self.synced.store(true, SeqCst);
        }
        Ok(())
    }
}

#[test]
fn a_removal_does_not_return_while_another_thread_syncs_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let ((stops, stopped), (go_on, waits)) = (channel(), channel());
    let disk = Arc::new(StoppingDisk { synced: AtomicBool::new(false), stops, go_on: Mutex::new(waits) });
    let store = Store::open_on(dir.path(), StoreConfig::default(), disk.clone()).unwrap();
    put_as(&store, &payload(BLOCK), Lease::until(Some(1), None), 0).unwrap();
    assert_eq!(store.expire(1).len(), 1);
    std::thread::scope(|scope| {
        let syncing = std::thread::Builder::new().name("syncing".into());
        let syncing = syncing.spawn_scoped(scope, || store.sync_removals()).unwrap();
        assert_eq!(stopped.recv(), Ok(()));
        let also = scope.spawn(|| {
            store.sync_removals().unwrap();
            disk.synced.load(SeqCst)
        });
        // One that does not wait for the sync ends here. One that waits is never late.
        for _ in 0..100 {
            if also.is_finished() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        go_on.send(()).unwrap();
        syncing.join().unwrap().unwrap();
        assert!(also.join().unwrap(), "it returned before the directory was synced");
    });
}
