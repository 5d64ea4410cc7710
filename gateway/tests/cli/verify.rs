//! Verify threads of a real gateway and of a real client.

use crate::admin::{get, start, value};
use crate::damage::{flip, kept};
use crate::support::{Site, run, stoq, wait_until};
use std::path::PathBuf;
use stoq_gateway::admin::client::Remote;
use stoq_gateway::admin::text::parse;

/// The names of a process's threads.
fn threads(process: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let name = |task: PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.map(|task| name(task.unwrap().path()).trim().to_owned()).collect()
}

#[test]
fn verify_threads_check_puts_and_gets_and_find_wrong_bytes() {
    let mut site = Site::new();
    let (gateway, at) = start(&mut site, "[workers]\nverify_threads = 1\n");
    let remote = Remote::new(&format!("http://{at}"), None, None).unwrap();
    assert!(threads(gateway.process.id()).iter().any(|name| name == "stoq-verify-0"));
    let config = site.client_file("[workers]\nverify_threads = 1\n");
    let client = |tool: &str| {
        let mut command = stoq();
        command.arg(tool).arg("--config").arg(&config).current_dir(site.directory.path());
        command
    };
    let counted = |name| value(&parse(&get(&remote, "/metrics")), name, &[("worker", "0")]);
    // A thread that gets no time answers late, and the worker then checks in its place: the next payload may find it awake.
    let mut rounds = 0;
    wait_until("the verify thread checks", || {
        rounds += 1;
        let (file, token) = site.file(&format!("file{rounds}"), 8 << 20);
        run(client("put").arg(&file), 0);
        let copy = site.path(&format!("copy{rounds}"));
        run(client("get").arg(&token).arg("-o").arg(&copy), 0);
        assert!(std::fs::read(copy).unwrap() == std::fs::read(file).unwrap());
        counted("stoq_verify_thread_bytes_total") > 0.0
    });
    assert_eq!(counted("stoq_verified_bytes_total"), f64::from(rounds * (8 << 20)));
    assert_eq!(counted("stoq_bad_proofs_total"), 0.0);
    let (file, token) = site.file("file1", 8 << 20);
    for blob in kept(&site, "blob") {
        flip(&blob, 3 << 20);
    }
    let (_, error) = run(client("get").arg(&token).arg("-o").arg(site.path("wrong")), 1);
    assert!(error.contains("bad proof"), "{error}");
    run(client("put").arg(&file), 0);
    run(client("get").arg(&token).arg("-o").arg(site.path("right")), 0);
    assert!(std::fs::read(site.path("right")).unwrap() == std::fs::read(&file).unwrap());
}
