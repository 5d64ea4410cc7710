//! Relative paths of a configuration start from its directory.

use std::path::{Path, PathBuf};
use stoq_gateway::config::{ApplicationConfig, load_gateway};

fn configs() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs")).into()
}

#[test]
fn relative_paths_start_from_the_files_directory() {
    let config = load_gateway(&configs().join("gateway-rights.toml")).unwrap();
    assert_eq!(config.identity.certificate, configs().join("gateway.pem"));
    assert_eq!(config.identity.key, configs().join("gateway.key"));
    assert_eq!(config.rights[1].authorities, [configs().join("instruments-ca.pem")]);
    let ApplicationConfig::Seed(seed) = &config.application[0] else { panic!("the first is the seed") };
    assert_eq!(seed.directory, configs().join("store"));
}
