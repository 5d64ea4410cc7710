//! One payload over several connections, on several workers of both sides.

use crate::support::{Site, json, run};
use serde_json::Value;
use std::path::Path;

/// A gateway of two workers.
fn site() -> Site {
    let mut site = Site::new();
    site.more += "[workers]\ncount = 2\n";
    site
}

fn assert_same(copy: &Path, original: &Path) {
    assert!(std::fs::read(copy).unwrap() == std::fs::read(original).unwrap());
}

fn put(site: &Site, path: &Path, more: &[&str]) -> Value {
    json(site.client("put").arg(path).args(more))
}

#[test]
fn a_payload_is_put_over_several_connections_and_is_one_payload_at_the_gateway() {
    let mut site = site();
    let mut gateway = site.start();
    let (path, token) = site.file("large", 21_000_000);
    let result = put(&site, &path, &["--connections", "3"]);
    assert_eq!((&result["token"], &result["connections"]), (&token.clone().into(), &3.into()), "{result}");
    assert_eq!((&result["already_kept"], &result["set"]), (&false.into(), &Value::Null), "{result}");
    // By its own token, over one connection and over several.
    for (copy, more) in [("one", "1"), ("three", "3"), ("auto", "auto")] {
        json(site.client("get").args([&token, "-o", copy, "--connections", more]));
        assert_same(&site.path(copy), &path);
    }
    // The payload is there: no byte is sent again, over however many connections.
    for more in [&["--connections", "3"][..], &[]] {
        assert_eq!(put(&site, &path, more)["already_kept"], true);
    }
    // One of less than two shards goes over one connection; at most 8 carry one.
    let (small, small_token) = site.file("small", 1 << 20);
    assert_eq!(put(&site, &small, &["--connections", "8"])["connections"], 1);
    let (other, other_token) = site.file("other", 20_000_000);
    assert_eq!(put(&site, &other, &["--connections", "64"])["connections"], 8);
    // A restarted gateway has them too.
    gateway.process.stop();
    let _gateway = site.start();
    for (token, path) in [(token, path), (small_token, small), (other_token, other)] {
        let copy = format!("again-{}", &token[3..9]);
        json(site.client("get").args([&token, "-o", &copy]));
        assert_same(&site.path(&copy), &path);
    }
}

#[test]
fn the_lanes_of_a_set_are_put_over_several_connections() {
    let mut site = site();
    let _gateway = site.start();
    let (path, token) = site.file("sharded", 9_000_000);
    let result = put(&site, &path, &["--shards", "4+2", "--connections", "4"]);
    assert_eq!((&result["connections"], &result["lanes"]), (&4.into(), &"0-5".into()), "{result}");
    let set = result["set"].as_str().unwrap();
    for (token, copy) in [(&*token, "payload"), (set, "set")] {
        json(site.client("get").args([token, "-o", copy]));
        assert_same(&site.path(copy), &path);
    }
    let some = put(&site, &path, &["--shards", "5+2", "--lanes", "0,6", "--connections", "auto"]);
    assert_eq!(some["lanes"], "0,6", "{some}");
}

#[test]
fn a_put_over_several_connections_that_is_refused_ends_with_the_reason_of_the_gateway() {
    let mut site = site();
    site.seed = "quota_bytes = 1000000\n".into();
    let gateway = site.start();
    let (path, _) = site.file("large", 21_000_000);
    let (_, stderr) = run(site.client("put").arg(&path).args(["--connections", "4"]), 1);
    assert!(stderr.contains("quota"), "{stderr}");
    let (_, stderr) = run(site.client("put").arg(&path).args(["--connections", "4", "--queue", "2"]), 1);
    assert!(stderr.contains("keeps no payloads"), "{stderr}");
    drop(gateway);
    let (_, stderr) = run(site.client("put").arg(&path).args(["--connections", "4", "--timeout", "0.5"]), 1);
    assert!(stderr.contains(&site.v4().to_string()), "{stderr}");
}
