//! A gateway's part in a fleet.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use stoq::limits::HANDOVERS_PER_S;
use stoq::node::HandoverConfig;
use stoq::quic::fleet_settings::{CidRotation, check_rotations};
use stoq::quic::routable::ServerId;

/// The keys that all gateways of a fleet share, this gateway's number among them, and where it learns of the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    /// The fleet's secret, as `stoq-gateway fleet key` makes it; the same file on every gateway.
    pub key_file: PathBuf,
    /// The gateway's number, unlike that of every other one.
    pub server_id: ServerId,
    /// Where the table of the fleet's gateways and rotations is; without it there is none.
    pub provider: Option<FleetProvider>,
    /// The file of the provider `file`.
    pub file: Option<PathBuf>,
    /// The fleet's name in etcd or Kubernetes.
    pub name: Option<String>,
    /// The file in which the last good table of etcd or Kubernetes is kept.
    pub saved: Option<PathBuf>,
    /// How to reach etcd.
    pub etcd: Option<FleetEtcdConfig>,
    /// How to reach the API of Kubernetes; in a pod there is nothing to give.
    pub kubernetes: Option<FleetKubernetesConfig>,
    /// Whether gateways of the table hand datagrams over to each other, at UDP port 6080.
    #[serde(default)]
    pub handover: bool,
    /// Datagrams that a worker hands over in a second, at most.
    pub handover_pps_max: Option<u32>,
    /// The largest layer-3 packet that passes between gateways, bytes; without it that of the network.
    pub fabric_mtu: Option<u16>,
    /// The rotations of the keys, the same on every gateway, where there is no table.
    #[serde(default)]
    pub rotation: Vec<CidRotation>,
}

/// Where a fleet's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FleetProvider {
    /// A file beside the configuration.
    File,
    /// Keys of etcd.
    Etcd,
    /// Objects of Kubernetes.
    Kubernetes,
}

/// How to reach etcd.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetEtcdConfig {
    /// The URLs of its members.
    pub endpoints: Vec<String>,
    /// The certificates of the authority of its servers.
    pub ca: Option<PathBuf>,
    /// The certificate that the gateway shows.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The user of etcd.
    pub user: Option<String>,
    /// The file with the user's password.
    pub password_file: Option<PathBuf>,
}

impl FleetEtcdConfig {
    /// Whether an endpoint has TLS, its host and its port.
    pub fn endpoint(url: &str) -> Option<(bool, String, u16)> {
        let (has_tls, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://")?),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some(())?;
        Some((has_tls, host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
    }

    /// The files that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca, &mut self.certificate, &mut self.key, &mut self.password_file].into_iter().flatten()
    }

    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let endpoints: Option<Vec<_>> = self.endpoints.iter().map(|url| Self::endpoint(url)).collect();
        let Some(endpoints) = endpoints.filter(|endpoints| !endpoints.is_empty()) else {
            return Some((
                "fleet.etcd.endpoints",
                "name etcd's members, each such as \"https://10.0.0.1:2379\"",
            ));
        };
        let has_plain = endpoints.iter().any(|(has_tls, ..)| !has_tls);
        if endpoints.iter().any(|(has_tls, ..)| *has_tls) && self.ca.is_none() {
            return Some((
                "fleet.etcd.ca",
                "https needs the certificates of the authority of etcd's servers; name their file",
            ));
        }
        if has_plain && self.user.is_some() {
            return Some((
                "fleet.etcd.user",
                "its password would pass unencrypted; give endpoints with https",
            ));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Some((
                "fleet.etcd.certificate",
                "a certificate and its key belong together; name both or none",
            ));
        }
        (self.user.is_some() != self.password_file.is_some())
            .then_some(("fleet.etcd.user", "a user and its password belong together; name both or none"))
    }
}

/// How to reach the API of Kubernetes. What is not given is what a pod has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetKubernetesConfig {
    /// The URL of its server.
    pub server: Option<String>,
    /// The certificates of the authority of the cluster.
    pub ca: Option<PathBuf>,
    /// The file with the token of an account, read for each call.
    pub token_file: Option<PathBuf>,
    /// The namespace of the fleet's objects.
    pub namespace: Option<String>,
}

impl FleetKubernetesConfig {
    /// Whether the server has TLS, its host and its port.
    pub fn endpoint(url: &str) -> Option<(bool, String, u16)> {
        FleetEtcdConfig::endpoint(url)
    }

    /// The files that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.ca, &mut self.token_file].into_iter().flatten()
    }

    fn fault(&self) -> Option<(&'static str, String)> {
        let endpoint = self.server.as_deref().map(Self::endpoint);
        if let Some(None) = endpoint {
            let fix = "name the API's server, such as \"https://10.0.0.1:6443\"";
            return Some(("fleet.kubernetes.server", fix.into()));
        }
        let is_plain = endpoint.flatten().is_some_and(|(has_tls, ..)| !has_tls);
        if is_plain && self.token_file.is_some() {
            let fix = "the token would pass unencrypted; give a server with https";
            return Some(("fleet.kubernetes.token_file", fix.into()));
        }
        let is_name = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let is_namespace = (1..=63).contains(&namespace.len()) && namespace.bytes().all(is_name);
        let fix = "it is no name of a namespace: 1 to 63 of a-z, 0-9 and -; give another";
        (!is_namespace).then(|| ("fleet.kubernetes.namespace", fix.into()))
    }
}

impl FleetConfig {
    /// The settings of hand-overs, if there are any.
    pub(crate) fn handover(&self) -> Option<HandoverConfig> {
        let fabric_mtu = self.fabric_mtu;
        self.handover.then_some(HandoverConfig { fabric_mtu })
    }

    /// The datagrams that a worker hands over in a second, if it hands over any.
    pub(crate) fn handover_pps_max(&self) -> Option<u32> {
        self.handover.then(|| self.handover_pps_max.unwrap_or(HANDOVERS_PER_S))
    }

    fn fault_of_handover(&self) -> Option<(&'static str, String)> {
        let needs = |key, is_set: bool| (is_set && !self.handover).then_some(key);
        let key = needs("fleet.handover_pps_max", self.handover_pps_max.is_some())
            .or(needs("fleet.fabric_mtu", self.fabric_mtu.is_some()));
        if let Some(key) = key {
            return Some((key, "it is not read; set fleet.handover = true".into()));
        }
        let fix = "gateways find each other by the fleet's table; set fleet.provider, or leave this out";
        (self.handover && self.provider.is_none()).then(|| ("fleet.handover", fix.into()))
    }

    /// Why the keys do not go together: the key and the fix.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let fault = match self.provider {
            None => self.unused(&[("fleet.file", self.file.is_some())], "file").or_else(|| {
                let of_etcd = [
                    ("fleet.name", self.name.is_some()),
                    ("fleet.saved", self.saved.is_some()),
                    ("fleet.etcd", self.etcd.is_some()),
                ];
                self.unused(&of_etcd, "etcd")
            }),
            Some(FleetProvider::File) if self.file.is_none() => {
                Some(("fleet.file", "the provider \"file\" needs the table's file; name it".into()))
            }
            Some(FleetProvider::Etcd) => self.fault_of_name("etcd").or_else(|| self.fault_of_etcd()),
            Some(FleetProvider::Kubernetes) => self
                .fault_of_name("kubernetes")
                .or_else(|| self.kubernetes.as_ref().and_then(FleetKubernetesConfig::fault)),
            Some(FleetProvider::File) => None,
        };
        let is_kubernetes = self.provider == Some(FleetProvider::Kubernetes);
        let fault = fault.or_else(|| {
            self.unused(&[("fleet.kubernetes", self.kubernetes.is_some() && !is_kubernetes)], "kubernetes")
        });
        let fault = fault.or_else(|| self.fault_of_handover());
        if fault.is_some() {
            return fault;
        }
        if self.provider.is_some() {
            let fix = "the fleet's table has the rotations; move them there";
            return (!self.rotation.is_empty()).then(|| ("fleet.rotation", fix.into()));
        }
        check_rotations(&self.rotation).err().map(|error| ("fleet.rotation", error.to_string()))
    }

    /// A key that no provider reads.
    fn unused(&self, keys: &[(&'static str, bool)], provider: &str) -> Option<(&'static str, String)> {
        let (key, _) = keys.iter().find(|(_, is_set)| *is_set)?;
        Some((key, format!("it is not read; set fleet.provider = \"{provider}\"")))
    }

    fn fault_of_name(&self, provider: &str) -> Option<(&'static str, String)> {
        let is_name = |name: &String| {
            let is_letter =
                |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
            (1..=64).contains(&name.len()) && name.bytes().all(is_letter)
        };
        if !self.name.as_ref().is_some_and(is_name) {
            let fix = format!(
                "the provider \"{provider}\" needs the fleet's name: 1 to 64 of a-z, 0-9 and -; give one"
            );
            return Some(("fleet.name", fix));
        }
        if self.saved.is_none() {
            let fix = format!(
                "the provider \"{provider}\" keeps the last good table in a file; name one, such as /var/lib/stoq/fleet.json"
            );
            return Some(("fleet.saved", fix));
        }
        None
    }

    fn fault_of_etcd(&self) -> Option<(&'static str, String)> {
        let Some(etcd) = &self.etcd else {
            return Some(("fleet.etcd", "the provider \"etcd\" needs this section; write it".into()));
        };
        etcd.fault().map(|(key, fix)| (key, fix.to_owned()))
    }
}
