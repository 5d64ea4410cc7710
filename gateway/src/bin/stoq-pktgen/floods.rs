//! Datagrams without connections.

use crate::{Setup, usage};
use anyhow::Context;
use stoq::datagram::NetworkInfo;
use stoq::limits::TX_SEGMENTS_LEN_MAX;
use stoq::network::{NetworkConfig, OpenNetwork};
use stoq::tls::{client_config, connect_name};
use stoq_gateway::faults::{Usage, started};
use stoq_gateway::pktgen::{Flood, FloodReport, IMIX, Initials, Load, Mix};
use stoq_gateway::tls;

#[derive(clap::Args)]
pub(crate) struct Sizes {
    /// Bytes of each frame, including its check sequence; or `imix`: 28 of 64, 16 of 570 and 4 of 1518.
    #[arg(long, default_value = "64", value_name = "BYTES")]
    size: String,
    #[command(flatten)]
    counted: CountArgs,
}

#[derive(clap::Args)]
pub(crate) struct CountArgs {
    /// End after this number of datagrams, at the end of a flight.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Sizes {
    fn mix(&self, setup: &Setup) -> anyhow::Result<Mix> {
        let one;
        let runs = if self.size == "imix" {
            &IMIX[..]
        } else {
            let size = self.size.parse().map_err(|_| usage("--size takes bytes, such as 64, or `imix`"))?;
            one = [(TX_SEGMENTS_LEN_MAX, size)];
            &one[..]
        };
        let (tagged, mtu) = match &setup.config.network {
            NetworkConfig::Dpdk(dpdk) => (dpdk.vlan.is_some(), dpdk.mtu()),
            NetworkConfig::KernelUdp(_) => (false, 1500),
        };
        let mix = Mix::new(runs, setup.gateway.ip().to_canonical().is_ipv6(), tagged, mtu);
        Ok(mix.map_err(|error| Usage(format!("--size: {error}")))?)
    }
}

pub(crate) fn garbage(setup: Setup, sizes: &Sizes) -> anyhow::Result<()> {
    let mix = sizes.mix(&setup)?;
    flood(setup, "garbage", &sizes.size, &sizes.counted, Load::garbage(mix))
}

/// Sends the load that `load` makes of Initial packets.
pub(crate) fn initials(
    setup: Setup,
    mode: &'static str,
    counted: &CountArgs,
    load: impl FnOnce(Initials) -> Load,
) -> anyhow::Result<()> {
    // Without an identity: a client shows its certificate later in a handshake than in any of these packets.
    let mut client = tls::client_tls(&setup.config.tls, None, &setup.config.trust)?;
    client.session_cache_len = 0;
    let initials = Initials::new(client_config(&client)?, &connect_name(setup.gateway))?;
    flood(setup, mode, "initial", counted, load(initials))
}

fn flood(
    setup: Setup,
    mode: &'static str,
    size: &str,
    counted: &CountArgs,
    load: Load,
) -> anyhow::Result<()> {
    let core = setup.config.workers.cores.first().copied();
    let flood = Flood {
        gateway: setup.gateway,
        load,
        rate_pps: setup.rate,
        count: counted.count,
        duration: setup.duration(counted.count),
        interrupt: setup.interrupt.clone(),
    };
    let opened = OpenNetwork::open(&setup.config.network, 1)?;
    // On a thread of its own, like a worker: DPDK has pinned this one when it started above.
    let thread = std::thread::Builder::new().name("stoq-pktgen".into());
    let thread = thread.spawn(move || {
        if let Some(id) = core {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        opened.drive(flood)
    });
    let driven = started("makes the load", thread)?.join();
    let (network, report) =
        driven.ok().flatten().context("the load ended early: its network has no queue")?;
    let report = report?;
    print(&setup, mode, size, &network, &report)?;
    setup.ensure_not_interrupted()
}

fn print(
    setup: &Setup,
    mode: &str,
    size: &str,
    network: &NetworkInfo,
    report: &FloodReport,
) -> anyhow::Result<()> {
    let mut result = serde_json::json!({
        "mode": mode, "frame_bytes": size, "rate_pps": setup.rate, "sent_pps": report.sent as f64 / report.seconds.max(1e-9),
        "network": network, "version": env!("CARGO_PKG_VERSION"),
    });
    if let (Some(result), serde_json::Value::Object(counts)) =
        (result.as_object_mut(), serde_json::to_value(report)?)
    {
        result.extend(counts);
    }
    let FloodReport { intended, offered, sent, refused, late, answers, answers_short, seconds, .. } = report;
    let text = format!(
        "{mode}, frames of {size}: {sent} sent in {seconds:.2} s, {:.0} a second; {intended} intended, {offered} offered, \
         {refused} not taken by the device, {late} never made; {answers} answers with a long header and {answers_short} with a short one came back; {network}",
        *sent as f64 / seconds.max(1e-9)
    );
    setup.print(&result, &text)?;
    Ok(())
}
