//! A model of Kubernetes' API: objects with versions, lists, and watches from a version. What it does is what its documentation says.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use stoq_gateway::fleet::kube::{KubeAnswer, KubeCall, KubeMethod};

/// A change: its version, the kind and the line of a watch.
struct Change {
    version: u64,
    plural: String,
    kind: &'static str,
    object: Value,
}

/// The API.
pub(crate) struct Api {
    pub(crate) version: u64,
    objects: BTreeMap<(String, String), Value>,
    changes: Vec<Change>,
    compacted: u64,
    made: u64,
    /// The names and specs of all gateways as of each version that changed them.
    pub(crate) gateways: BTreeMap<u64, BTreeMap<String, Value>>,
    /// Calls that came, by method.
    pub(crate) calls: usize,
    /// The verbs that the account may not use.
    pub(crate) denied: Vec<&'static str>,
}

/// A path: the kind of the objects, a name, and the query.
struct Path<'a> {
    plural: &'a str,
    name: Option<&'a str>,
    query: BTreeMap<&'a str, &'a str>,
}

impl<'a> Path<'a> {
    fn read(path: &'a str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(2);
        let plural = parts.next().unwrap_or("none");
        let query = query.split('&').filter_map(|part| part.split_once('=')).collect();
        Self { plural, name: parts.next(), query }
    }

    fn selects(&self, object: &Value) -> bool {
        let name =
            self.query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name%3D"));
        let label = self.query.get("labelSelector").and_then(|selector| selector.rsplit_once("%3D"));
        let labels = &object["metadata"]["labels"];
        name.is_none_or(|name| object["metadata"]["name"] == name)
            && label.is_none_or(|(key, value)| labels[key.replace("%2F", "/")] == value)
    }
}

fn answer(status: u16, body: &Value) -> KubeAnswer {
    KubeAnswer { status, retry_after_s: None, body: body.to_string().into_bytes() }
}

fn refusal(status: u16, message: &str) -> KubeAnswer {
    answer(status, &json!({ "kind": "Status", "status": "Failure", "message": message, "code": status }))
}

/// The answer of an API that has too much to do.
pub(crate) fn throttled(seconds: u64) -> KubeAnswer {
    KubeAnswer { retry_after_s: Some(seconds), ..refusal(429, "too many requests") }
}

impl Api {
    pub(crate) fn new() -> Self {
        Self {
            version: 100,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            compacted: 0,
            made: 0,
            gateways: BTreeMap::new(),
            calls: 0,
            denied: Vec::new(),
        }
    }

    pub(crate) fn get(&self, plural: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), name.to_owned()))
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        self.objects.iter().filter(|((of, _), _)| of == plural).map(|(_, object)| object.clone()).collect()
    }

    fn change(&mut self, kind: &'static str, plural: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let key = (plural.to_owned(), name.to_owned());
        match kind {
            "DELETED" => drop(self.objects.remove(&key)),
            _ => drop(self.objects.insert(key, object.clone())),
        }
        if plural == "stoqgateways" {
            let all = self.all("stoqgateways").into_iter();
            let all = all
                .map(|object| (object["metadata"]["name"].as_str().unwrap().into(), object["spec"].clone()));
            // Those of the fleet eu.
            let all: BTreeMap<String, Value> =
                all.filter(|(name, _): &(String, _)| name.len() == 9).collect();
            if self.gateways.values().next_back() != Some(&all) {
                self.gateways.insert(self.version, all);
            }
        }
        let (plural, version) = (plural.to_owned(), self.version);
        self.changes.push(Change { version, plural, kind, object: object.clone() });
        object
    }

    /// Puts an object, whatever is there.
    pub(crate) fn put(&mut self, plural: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let former = self.get(plural, &name).cloned();
        let kind = if former.is_some() { "MODIFIED" } else { "ADDED" };
        object["metadata"]["uid"] = match former {
            Some(former) => former["metadata"]["uid"].clone(),
            None => self.uid(),
        };
        self.change(kind, plural, &name, object);
    }

    pub(crate) fn delete(&mut self, plural: &str, name: &str) {
        if let Some(object) = self.get(plural, name).cloned() {
            self.change("DELETED", plural, name, object);
        }
    }

    fn uid(&mut self) -> Value {
        self.made += 1;
        format!("00000000-0000-4000-8000-{:012}", self.made).into()
    }

    /// Forgets all changes so far.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        self.changes.clear();
    }

    /// Answers a call, a watch aside.
    pub(crate) fn call(&mut self, call: &KubeCall) -> KubeAnswer {
        self.calls += 1;
        let path = Path::read(&call.path);
        let verb = match (call.method, path.name) {
            (KubeMethod::Get, None) => "list",
            (KubeMethod::Get, _) => "get",
            (KubeMethod::Post, _) => "create",
            (KubeMethod::Put, _) => "update",
            (KubeMethod::Delete, _) => "delete",
        };
        let body = call.body.clone().unwrap_or_default();
        if call.path.ends_with("selfsubjectaccessreviews") {
            let asked = &body["spec"]["resourceAttributes"]["verb"];
            let allowed = !self.denied.iter().any(|verb| asked == verb);
            return answer(201, &json!({ "status": { "allowed": allowed } }));
        }
        if self.denied.contains(&verb) {
            return refusal(403, &format!("{} is forbidden: User cannot {verb}", path.plural));
        }
        let (plural, named) = (path.plural, path.name.or(body["metadata"]["name"].as_str()));
        let Some(name) = named.filter(|_| verb != "list") else {
            let items: Vec<_> = self.all(plural).into_iter().filter(|object| path.selects(object)).collect();
            let metadata = json!({ "resourceVersion": self.version.to_string() });
            return answer(200, &json!({ "metadata": metadata, "items": items }));
        };
        let former = self.get(plural, name).cloned();
        match (verb, former) {
            ("get", Some(object)) => answer(200, &object),
            ("create", Some(_)) => refusal(409, "already exists"),
            ("create", None) => {
                let mut object = body.clone();
                object["metadata"]["uid"] = self.uid();
                answer(201, &self.change("ADDED", plural, name, object))
            }
            ("update", Some(former)) => {
                let (held, wanted) =
                    (&former["metadata"]["resourceVersion"], &body["metadata"]["resourceVersion"]);
                if !wanted.is_null() && held != wanted {
                    return refusal(409, "the object has been modified");
                }
                let mut object = body.clone();
                object["metadata"]["uid"] = former["metadata"]["uid"].clone();
                answer(200, &self.change("MODIFIED", plural, name, object))
            }
            ("delete", Some(former)) => {
                let conditions = body["preconditions"].as_object().cloned().unwrap_or_default();
                if conditions.iter().any(|(field, value)| former["metadata"][field] != *value) {
                    return refusal(409, "the precondition does not hold");
                }
                answer(200, &self.change("DELETED", plural, name, former))
            }
            _ => refusal(404, "not found"),
        }
    }

    /// Begins a watch, or refuses it. Returns the version after which it tells.
    pub(crate) fn watch(&mut self, call: &KubeCall) -> Result<u64, KubeAnswer> {
        self.calls += 1;
        let path = Path::read(&call.path);
        assert_eq!((path.query["watch"], path.query["allowWatchBookmarks"]), ("true", "true"));
        let from = path.query["resourceVersion"].parse().unwrap();
        if from < self.compacted { Err(refusal(410, "too old resource version")) } else { Ok(from) }
    }

    /// The lines of a watch after this version; `None`: they are no longer there.
    pub(crate) fn lines(&self, call: &KubeCall, from: u64) -> Option<Vec<Vec<u8>>> {
        let path = Path::read(&call.path);
        let is_of_it = |change: &&Change| change.plural == path.plural && path.selects(&change.object);
        let line = |change: &Change| line(change.kind, &change.object);
        let first = self.changes.partition_point(|change| change.version <= from);
        (from >= self.compacted).then(|| self.changes[first..].iter().filter(is_of_it).map(line).collect())
    }

    /// The line that only tells the version.
    pub(crate) fn bookmark(&self) -> Vec<u8> {
        line("BOOKMARK", &json!({ "metadata": { "resourceVersion": self.version.to_string() } }))
    }
}

/// A line of a watch.
pub(crate) fn line(kind: &str, object: &Value) -> Vec<u8> {
    format!("{}\n", json!({ "type": kind, "object": object })).into_bytes()
}

/// The line of a watch whose changes are no longer there.
pub(crate) fn expired() -> Vec<u8> {
    line("ERROR", &json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" }))
}
