//! What happens in a world: requests of honest clients, and troubles.

use super::{Asked, LIED_ABOUT, Open, Simulation, way};
use crate::samples::{Sample, blob, samples};
use crate::support::caller::Peer;
use crate::support::gathering::{Gathering, source};
use crate::support::{DISCARD, ECHO, SEED, encoding, gateway_address, gateway_node, route, selected};
use rand::Rng;
use stoq::gather::Want;
use stoq::hop::Route;
use stoq::nic::simulated::LinkConfig;
use stoq::record::{Descriptor, Mirror};
use stoq::shard::Lanes;
use stoq::token::Ranges;

impl Simulation {
    pub(super) fn event(&mut self) {
        let gateway = self.random.random_range(0..self.setup.gateways);
        match self.random.random_range(0..24) {
            0..13 => self.ask(),
            13 => self.gather(),
            14 | 15 => self.attack(gateway),
            22 | 23 => self.begin_early(gateway),
            16 => {
                self.draw("the link goes down");
                self.world.link.set_up(false);
                self.pass(2000);
                self.world.link.set_up(true);
            }
            17 => {
                let way = way(&mut self.random);
                self.draw(format_args!("the link is another one: {way:?}"));
                self.world.link.reconfigure(|link| *link = LinkConfig { mtu: link.mtu, ..way.clone() });
            }
            18 => {
                let ahead_s = self.random.random_range(-1_000_000..1_000_000);
                self.draw(format_args!("the clocks jump to {ahead_s} s ahead"));
                self.setup.clock.set_ahead(ahead_s);
            }
            19 => self.rebind(gateway),
            20 => {
                let steps = self.random.random_range(0..60);
                self.draw(format_args!("the disk of gateway {gateway} dies in {steps} changes"));
                self.disks[gateway].crash_in(steps);
            }
            _ => {
                self.draw(format_args!("gateway {gateway} crashes"));
                self.crash(gateway);
            }
        }
    }

    /// A client has another port from now on, as one gateway sees it.
    fn rebind(&mut self, gateway: usize) {
        let client = self.random.random_range(0..self.setup.clients);
        let port = self.random.random_range(10_000..60_000);
        self.draw(format_args!("client {client} has port {port} at gateway {gateway}"));
        let icmp = self.world.gateway(gateway).icmp.clone();
        icmp.rebind([10, 77, 0, 10 + client as u8].into(), port);
    }

    /// A client's connection to a gateway, if it has one. Otherwise it asks for one.
    fn peer(&mut self, client: usize, gateway: usize) -> Option<Peer> {
        let caller = &mut self.world.clients[client].callers[0];
        let tag = self.connections[client][gateway];
        if let Some(peer) = tag.and_then(|tag| caller.peer(tag))
            && caller.closed(peer).is_none()
        {
            let mut peer = peer.clone();
            peer.host = client;
            return Some(peer);
        }
        let is_pending = |tag| {
            caller.peer(tag).is_none() && caller.connect_failed.iter().all(|(failed, _)| *failed != tag)
        };
        if !tag.is_some_and(is_pending) {
            self.connections[client][gateway] = Some(caller.connect(gateway_address(gateway)));
            self.note(format_args!("client {client} connects to gateway {gateway}"));
        }
        None
    }

    /// A client leaves a gateway and begins anew. Where it has a session, its first requests are early data.
    fn begin_early(&mut self, gateway: usize) {
        let client = self.random.random_range(0..self.setup.clients);
        let sample = self.random.random_range(0..samples().payloads.len());
        self.draw(format_args!("client {client} begins anew at gateway {gateway} with sample {sample}"));
        let Some(old) = self.peer(client, gateway) else { return };
        let caller = self.world.caller(&old);
        caller.disconnect(&old);
        let tag = caller.connect_early(gateway_address(gateway));
        self.connections[client][gateway] = Some(tag);
        self.pass(1);
        let Some(peer) = self.peer(client, gateway) else { return };
        let sample = if Some(gateway) == self.liar { LIED_ABOUT } else { sample };
        let Sample { bytes, token, .. } = &samples().payloads[sample];
        let caller = self.world.caller(&peer);
        let mut requests = vec![caller.fetch(&peer, *token, Ranges::all())];
        if Some(gateway) != self.liar {
            let descriptor = Descriptor::plain(*token, bytes.len() as u64).unwrap();
            let encoded = encoding(bytes, &Ranges::all());
            requests.push(caller.put_with(&peer, None, SEED, descriptor, None, 0, encoded));
        }
        caller.message(&peer, DISCARD, bytes);
        let open = |request| Open {
            peer: peer.clone(),
            request,
            at: gateway,
            asked: Asked::Sample(sample),
            compared: 0,
        };
        self.open.extend(requests.into_iter().map(open));
    }

    /// A request of an honest client: at a gateway, or through another one.
    fn ask(&mut self) {
        let client = self.random.random_range(0..self.setup.clients);
        let first = self.random.random_range(0..self.setup.gateways);
        let at = self.near(first);
        let mut sample = self.random.random_range(0..samples().payloads.len());
        let mut kind = self.random.random_range(0..10);
        self.draw(format_args!("client {client} asks {first} for {at}, kind {kind}, sample {sample}"));
        let Some(peer) = self.peer(client, first) else { return };
        if Some(at) == self.liar || Some(first) == self.liar {
            // What it answers is known for one payload.
            (sample, kind) = (LIED_ABOUT, 4);
        }
        let way = if first == at { route(&[first]) } else { route(&[first, at]) };
        self.places += u64::from(first != at);
        let Sample { bytes, token, .. } = &samples().payloads[sample];
        let caller = self.world.caller(&peer);
        let (request, at) = match kind {
            0..3 => (caller.put_by(&peer, way.hop(), bytes, 0), at),
            3 => return self.put_lanes(peer, way, at),
            4..7 => (caller.fetch_by(&peer, Some(way.hop()), (*token).into(), None, Ranges::all()), at),
            7 => (caller.locate(&peer, (*token).into()), first),
            8 if first != at => {
                let sources = vec![gateway_node(at)];
                let mirror = Mirror { token: (*token).into(), lanes: Lanes::NONE, lease_s: 0, sources };
                (caller.mirror(&peer, mirror), first)
            }
            _ => return caller.message(&peer, ECHO, bytes),
        };
        self.open.push(Open { peer, request, at, asked: Asked::Sample(sample), compared: 0 });
    }

    /// Puts lanes of the set at the end of a route.
    fn put_lanes(&mut self, peer: Peer, way: Route, at: usize) {
        let descriptor = samples().descriptor;
        let bits = self.random.random_range(1..64);
        let lanes: Lanes = (0..6).filter(|lane| bits >> lane & 1 == 1).collect();
        let encoded = descriptor
            .parts(lanes, &Ranges::all())
            .unwrap()
            .into_iter()
            .flat_map(|part| selected(blob(part.blob), part.selection))
            .collect();
        let caller = self.world.caller(&peer);
        let request = caller.put_with(&peer, Some(way.hop()), SEED, descriptor, Some(lanes), 0, encoded);
        self.open.push(Open { peer, request, at, asked: Asked::Lanes(lanes), compared: 0 });
    }

    /// A gateway itself or a peer gateway of it.
    fn near(&mut self, of: usize) -> usize {
        let mut near = vec![of, of];
        near.extend(self.setup.peer_gateways.iter().filter_map(|&(a, b)| match of {
            _ if a == of => Some(b),
            _ if b == of => Some(a),
            _ => None,
        }));
        near[self.random.random_range(0..near.len())]
    }

    /// A client gathers a payload from all gateways that it is connected to.
    fn gather(&mut self) {
        let client = self.random.random_range(0..self.setup.clients);
        let sample = self.random.random_range(0..samples().payloads.len());
        let sample = if self.liar.is_some() { LIED_ABOUT } else { sample };
        self.draw(format_args!("client {client} gathers sample {sample}"));
        let peers: Vec<_> =
            (0..self.setup.gateways).filter_map(|gateway| self.peer(client, gateway)).collect();
        let caller = &mut self.world.clients[client].callers[0];
        if peers.is_empty() || caller.gathering.as_ref().is_some_and(|gathering| gathering.end.is_none()) {
            return;
        }
        let (token, sources) =
            (samples().payloads[sample].token, peers.iter().map(|peer| source(peer, None)).collect());
        caller.gathering = Some(Gathering::new(token.into(), Want::Payload, sources));
    }
}
