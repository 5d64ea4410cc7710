//! Members and a model of Kubernetes' API under virtual time, drawn by a seed; and a checker that looks at each table that a member takes.

use crate::api::{Api, expired, throttled};
use crate::schedule::Schedule;
use crate::world::gateway;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoq::tls::NodeId;
use stoq_gateway::fleet::exchange::MemberSettings;
use stoq_gateway::fleet::kube::{
    KUBE_GROUP, KubeCall, KubeCollection, KubeEvent, KubeMember, KubeNames, KubeRequest,
};
use stoq_gateway::fleet::table::FleetTable;

const BOOKMARKS: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Happening {
    Wake(usize),
    Asked(usize, u64, KubeCall),
    WatchAsked(usize, u64, KubeCollection, u64, KubeCall),
    Told(usize, u64, KubeEvent),
    Bookmark,
}

struct Watching {
    session: u64,
    number: u64,
    after: u64,
    call: KubeCall,
}

/// A member in the cluster.
pub(crate) struct Pod {
    pub(crate) member: KubeMember,
    pub(crate) node: NodeId,
    session: u64,
    watches: BTreeMap<KubeCollection, Watching>,
    wakes: Option<Duration>,
    arrives: Duration,
    pub(crate) table: Option<Arc<FleetTable>>,
    /// Tables that it took.
    pub(crate) tables: usize,
    /// The fewest gateways that a table of it had alive, since this was set.
    pub(crate) fewest: usize,
    /// The version of its last roster, by what it has.
    at: u64,
    /// It reaches nothing: its process is dead, or its network.
    pub(crate) is_cut: bool,
}

/// How the API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiState {
    Well,
    /// It answers nothing, and what it told is still on its way.
    Silent,
    /// It wants to be asked again after these seconds.
    Throttles(u64),
}

/// A fault that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiMutant {
    /// A watch whose changes are no longer there passes over them.
    SilentExpiry,
    /// The watch of gateways loses each third change.
    LostChange,
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) now: Duration,
    begin: Instant,
    schedule: Schedule<Happening>,
    pub(crate) random: StdRng,
    pub(crate) api: Api,
    pub(crate) state: ApiState,
    /// Watches tell nothing, though calls are answered.
    pub(crate) stalls: bool,
    pub(crate) pods: Vec<Pod>,
    pub(crate) lists: usize,
    pub(crate) mutant: Option<ApiMutant>,
    lost: usize,
    pub(crate) faults: Vec<String>,
}

/// The object of the gateway of this number.
pub(crate) fn object(number: usize, weight: f64) -> Value {
    let row = gateway(number);
    json!({
        "apiVersion": format!("{KUBE_GROUP}/v1"), "kind": "StoqGateway",
        "metadata": { "name": format!("eu-{}", row.server_id) },
        "spec": { "nodeId": row.node_id.to_string(), "name": row.name, "serverId": row.server_id, "zone": row.zone,
            "weight": weight, "addresses": row.addresses, "state": row.state },
    })
}

fn fleet() -> Value {
    let rotation = json!({ "number": 0, "salt": "000102030405060708090a0b0c0d0e0f", "state": "issue" });
    json!({ "metadata": { "name": "eu" }, "spec": { "rotations": [rotation] } })
}

fn names() -> KubeNames {
    KubeNames { fleet: "eu".into(), namespace: "stoq".into() }
}

impl Cluster {
    /// A fleet that the operator has put, and these members, which begin within ten seconds.
    pub(crate) fn new(seed: u64, members: usize) -> Self {
        let mut cluster = Self {
            now: Duration::ZERO,
            begin: Instant::now(),
            schedule: Schedule::default(),
            random: StdRng::seed_from_u64(seed),
            api: Api::new(),
            state: ApiState::Well,
            stalls: false,
            pods: Vec::new(),
            lists: 0,
            mutant: None,
            lost: 0,
            faults: Vec::new(),
        };
        cluster.api.put("stoqfleets", fleet());
        (0..members).for_each(|number| cluster.api.put("stoqgateways", object(number, 1.0)));
        for number in 0..members {
            let node = gateway(number).node_id;
            let settings = MemberSettings {
                node,
                own_key: names().own_key(&node),
                boot: format!("{number:016x}"),
                version: "0.1.0".into(),
                since_s: 0,
                endpoints: 1,
                seed: cluster.random.random(),
            };
            let begins = Duration::from_millis(cluster.random.random_range(0..10_000));
            cluster.pods.push(Pod {
                member: KubeMember::new(cluster.begin + begins, names(), settings, None),
                node,
                session: u64::MAX,
                watches: BTreeMap::new(),
                wakes: Some(begins),
                arrives: Duration::ZERO,
                table: None,
                tables: 0,
                fewest: usize::MAX,
                at: 0,
                is_cut: false,
            });
            cluster.push(begins, Happening::Wake(number));
        }
        cluster.push(BOOKMARKS, Happening::Bookmark);
        cluster
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.schedule.push(at, happening);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.random.random_range(100..5_000))
    }

    /// The operator makes the fleet's own object anew.
    pub(crate) fn remake(&mut self) {
        self.api.delete("stoqfleets", "eu");
        self.api.put("stoqfleets", fleet());
        self.spread();
    }

    /// The operator, or an adversary, puts an object.
    pub(crate) fn put(&mut self, plural: &str, object: Value) {
        self.api.put(plural, object);
        self.spread();
    }

    pub(crate) fn delete(&mut self, plural: &str, name: &str) {
        self.api.delete(plural, name);
        self.spread();
    }

    /// Tells the watches what they do not know.
    fn spread(&mut self) {
        if self.stalls || self.state == ApiState::Silent {
            return;
        }
        let last = self.api.version;
        for at in 0..self.pods.len() {
            let mut watches = std::mem::take(&mut self.pods[at].watches);
            watches.retain(|collection, watch| {
                if self.pods[at].is_cut || watch.after == last {
                    return true;
                }
                let lines = self.api.lines(&watch.call, watch.after);
                watch.after = last;
                let is_expired = lines.is_none();
                if is_expired && self.mutant != Some(ApiMutant::SilentExpiry) {
                    self.tell(at, watch.session, KubeEvent::Told(watch.number, expired()));
                    return false;
                }
                for line in lines.unwrap_or_default() {
                    self.lost += usize::from(*collection == KubeCollection::Gateways);
                    let is_lost = self.mutant == Some(ApiMutant::LostChange) && self.lost.is_multiple_of(3);
                    if !is_lost || *collection != KubeCollection::Gateways {
                        self.tell(at, watch.session, KubeEvent::Told(watch.number, line));
                    }
                }
                true
            });
            self.pods[at].watches = watches;
        }
    }

    /// The connections of a pod end, or of all.
    pub(crate) fn reset(&mut self, pods: impl IntoIterator<Item = usize>) {
        for at in pods {
            self.pods[at].watches.clear();
            let session = self.pods[at].session;
            self.tell(at, session, KubeEvent::Lost("connection reset".into()));
        }
    }

    /// The API ends every watch, as it does after a while.
    pub(crate) fn end_watches(&mut self) {
        for at in 0..self.pods.len() {
            for watch in std::mem::take(&mut self.pods[at].watches).into_values() {
                self.tell(at, watch.session, KubeEvent::Ended(watch.number));
            }
        }
    }

    fn tell(&mut self, at: usize, session: u64, event: KubeEvent) {
        if self.pods[at].is_cut {
            return;
        }
        let arrives = self.now + self.delay();
        let pod = &mut self.pods[at];
        pod.arrives = pod.arrives.max(arrives);
        let arrives = pod.arrives;
        self.push(arrives, Happening::Told(at, session, event));
    }

    /// Runs for this time.
    pub(crate) fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some((at, happening)) = self.schedule.pop_until(end) {
            self.now = at;
            match happening {
                Happening::Wake(at) if self.pods[at].wakes == Some(self.now) => self.turn(at),
                Happening::Wake(_) => {}
                Happening::Asked(at, session, call) => self.asked(at, session, &call),
                Happening::WatchAsked(at, session, collection, number, call) => {
                    self.watch(at, session, collection, number, call);
                }
                Happening::Told(at, session, event) => {
                    self.pods[at].member.handle(self.begin + self.now, session, event);
                    self.turn(at);
                }
                Happening::Bookmark => self.bookmark(),
            }
        }
        self.now = end;
    }

    fn bookmark(&mut self) {
        self.push(self.now + BOOKMARKS, Happening::Bookmark);
        if self.stalls || self.state == ApiState::Silent {
            return;
        }
        let line = self.api.bookmark();
        for at in 0..self.pods.len() {
            let watches: Vec<_> =
                self.pods[at].watches.values().map(|watch| (watch.session, watch.number)).collect();
            for (session, number) in watches {
                self.tell(at, session, KubeEvent::Told(number, line.clone()));
            }
        }
    }

    fn asked(&mut self, at: usize, session: u64, call: &KubeCall) {
        let answer = match self.state {
            ApiState::Silent => return,
            ApiState::Throttles(seconds) => {
                self.api.calls += 1;
                throttled(seconds)
            }
            ApiState::Well => {
                self.lists += usize::from(call.path.contains("stoqgateways?"));
                self.api.call(call)
            }
        };
        self.tell(at, session, KubeEvent::Answered(answer));
        self.spread();
    }

    fn watch(&mut self, at: usize, session: u64, collection: KubeCollection, number: u64, call: KubeCall) {
        if self.state == ApiState::Silent || self.pods[at].session != session {
            return;
        }
        let began = match self.state {
            ApiState::Throttles(seconds) => Err(throttled(seconds)),
            _ if self.mutant == Some(ApiMutant::SilentExpiry) => {
                Ok(self.api.watch(&call).unwrap_or(self.api.version))
            }
            _ => self.api.watch(&call),
        };
        match began {
            Err(answer) => self.tell(at, session, KubeEvent::Refused(number, answer)),
            Ok(after) => {
                self.tell(at, session, KubeEvent::Watching(number));
                self.pods[at].watches.insert(collection, Watching { session, number, after, call });
                self.spread();
            }
        }
    }

    /// Polls a member until it asks nothing more, and takes its table.
    pub(crate) fn turn(&mut self, at: usize) {
        let (now, unix_us) = (self.begin + self.now, self.now.as_micros() as u64);
        while let Some(request) = self.pods[at].member.poll(now, unix_us) {
            let arrives = self.now + self.delay();
            let session = self.pods[at].session;
            match request {
                KubeRequest::Connect { session } => {
                    self.pods[at].watches.clear();
                    self.pods[at].session = session;
                }
                _ if self.pods[at].is_cut => {}
                KubeRequest::Ask(call) => self.push(arrives, Happening::Asked(at, session, call)),
                KubeRequest::Watch { collection, watch, call } => {
                    self.push(arrives, Happening::WatchAsked(at, session, collection, watch, call));
                }
            }
        }
        if let Some((_, table)) = self.pods[at].member.fleet().take_table() {
            self.check(at, &table);
            let pod = &mut self.pods[at];
            (pod.tables, pod.fewest) = (pod.tables + 1, pod.fewest.min(table.alive.len()));
            let keys = table.roster.keys_revision;
            pod.table = Some(table);
            pod.member.fleet().set_ready(now, true);
            pod.member.fleet().set_keys(now, keys);
        }
        let wakes = self.pods[at].member.poll_timeout().map(|wakes| wakes - self.begin);
        if wakes != self.pods[at].wakes {
            self.pods[at].wakes = wakes;
            if let Some(wakes) = wakes {
                self.push(wakes.max(self.now), Happening::Wake(at));
            }
        }
    }

    /// Holds a table against the history of the gateways: it has them as of one version, not before that of its last one.
    fn check(&mut self, at: usize, table: &FleetTable) {
        let rows: BTreeMap<String, (String, f64)> = table
            .roster
            .gateways
            .values()
            .map(|row| (format!("eu-{}", row.server_id), (row.name.clone(), row.weight)))
            .collect();
        let is_these = |specs: &BTreeMap<String, Value>| {
            let spec =
                |spec: &Value| (spec["name"].as_str().unwrap().to_owned(), spec["weight"].as_f64().unwrap());
            specs.len() == rows.len()
                && specs.iter().all(|(name, found)| rows.get(name) == Some(&spec(found)))
        };
        let mut history = self.api.gateways.range(self.pods[at].at..);
        match history.find(|(_, specs)| is_these(specs)) {
            Some((version, _)) => self.pods[at].at = *version,
            None => self.faults.push(format!("{:?}: pod {at} has gateways of no version", self.now)),
        }
    }

    /// Pods whose gateways are not the last ones.
    pub(crate) fn behind(&self) -> usize {
        let last = *self.api.gateways.keys().next_back().unwrap();
        self.pods.iter().filter(|pod| !pod.is_cut && pod.at != last).count()
    }

    /// The faults at the end: those found, and gateways that are not alive, or of whom one does not know it.
    pub(crate) fn faults_at_end(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        match self.behind() {
            0 => {}
            behind => faults.push(format!("{behind} are behind")),
        }
        let living: Vec<_> = self.pods.iter().filter(|pod| !pod.is_cut).collect();
        for pod in &living {
            let known = pod.table.as_ref().map_or(0, |table| table.alive.len());
            if known != living.len() {
                faults.push(format!("{} knows {known} alive of {}", pod.node, living.len()));
            }
        }
        faults
    }
}
