//! The JSON of etcd's gateway: requests out, events in. Numbers of 64 bits are texts there, octets are base64.

use super::super::exchange::{FleetEvent, FleetRequest, StoreHead};
use super::super::lease::LeaseId;
use super::super::record::{FleetChange, FleetEntry, read_record};
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use stoq::limits::FLEET_LEASE_S;

/// gRPC's codes that matter.
const NOT_FOUND: u64 = 5;
const PERMISSION_DENIED: u64 = 7;
const UNAUTHENTICATED: u64 = 16;

/// Octets that are shown of an answer that is none of etcd's.
const ERROR_SHOWN_LEN: usize = 100;

/// What an answer says.
#[derive(Debug)]
pub(super) enum Said {
    /// This.
    Event(FleetEvent),
    /// The token of the user is over: authenticate again.
    Stale,
}

/// The path and the body of a request. `prefix` is that of the fleet.
pub(super) fn request(request: &FleetRequest, prefix: &str, own_key: &str) -> (&'static str, Value) {
    let (key, range_end) = (base64(prefix.as_bytes()), base64(&end_of(prefix)));
    match request {
        FleetRequest::Connect { .. } => unreachable!("it is no question to etcd"),
        FleetRequest::Probe => {
            ("/v3/kv/range", json!({ "key": key, "range_end": range_end, "limit": "1", "keys_only": true }))
        }
        FleetRequest::List => ("/v3/kv/range", json!({ "key": key, "range_end": range_end })),
        FleetRequest::WatchFrom(revision) => {
            let create = json!({ "key": key, "range_end": range_end, "start_revision": revision.to_string(), "progress_notify": true });
            ("/v3/watch", json!({ "create_request": create }))
        }
        FleetRequest::Grant => ("/v3/lease/grant", json!({ "TTL": FLEET_LEASE_S.to_string() })),
        FleetRequest::KeepAlive(id) => ("/v3/lease/keepalive", json!({ "ID": id.0.to_string() })),
        FleetRequest::PutAlive(id, alive) => {
            let (key, value) = (base64(own_key.as_bytes()), base64(&alive.value()));
            ("/v3/kv/put", json!({ "key": key, "value": value, "lease": id.0.to_string() }))
        }
        FleetRequest::Revoke(id) => ("/v3/lease/revoke", json!({ "ID": id.0.to_string() })),
    }
}

/// What the answer to a request says, a watch aside.
pub(super) fn answer(request: &FleetRequest, status: u16, body: &[u8], prefix: &str) -> Said {
    let value = match value(status, body) {
        Ok(value) => value,
        Err(Said::Event(FleetEvent::LeaseGone)) if matches!(request, FleetRequest::Revoke(_)) => {
            return Said::Event(FleetEvent::Revoked);
        }
        Err(said) => return said,
    };
    let event = match request {
        FleetRequest::Probe => head(&value).map(FleetEvent::Probed),
        FleetRequest::List => head(&value).map(|head| FleetEvent::Listed(head, entries(&value, prefix))),
        FleetRequest::Grant => number(&value["ID"]).map(|id| FleetEvent::Granted(LeaseId(id), ttl(&value))),
        FleetRequest::KeepAlive(_) => Some(match ttl(&value["result"]) {
            Duration::ZERO => FleetEvent::LeaseGone,
            ttl => FleetEvent::KeptAlive(ttl),
        }),
        FleetRequest::PutAlive(..) => Some(FleetEvent::Put),
        FleetRequest::Revoke(_) => Some(FleetEvent::Revoked),
        FleetRequest::Connect { .. } | FleetRequest::WatchFrom(_) => None,
    };
    Said::Event(event.unwrap_or_else(|| FleetEvent::Lost("its answer is none of etcd's".into())))
}

/// The JSON of an answer, or the error that it says.
pub(super) fn value(status: u16, body: &[u8]) -> Result<Value, Said> {
    // A body with an error has the trailers of gRPC behind it.
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let Some(Ok(value)) = values.next() else {
        let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_SHOWN_LEN)]);
        return Err(Said::Event(FleetEvent::Lost(format!("status {status}: {}", text.escape_debug()))));
    };
    match error(&value) {
        Some(said) => Err(said),
        None => Ok(value),
    }
}

/// What one line of a watch says.
pub(super) fn watched(line: &[u8], prefix: &str) -> FleetEvent {
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        return FleetEvent::Lost("a watch that is no JSON".into());
    };
    match error(&value) {
        Some(Said::Event(event)) => return event,
        Some(Said::Stale) => return FleetEvent::Lost("the token of the user is over".into()),
        None => {}
    }
    let result = &value["result"];
    if result["canceled"] == true {
        let reason = result["cancel_reason"].as_str().unwrap_or("the watch was canceled");
        return match number(&result["compact_revision"]) {
            Some(revision) if revision > 0 => FleetEvent::Compacted,
            _ => FleetEvent::Lost(reason.to_owned()),
        };
    }
    let Some(mut head) = head(result) else {
        return FleetEvent::Lost("a watch that is none of etcd's".into());
    };
    if result["created"] == true {
        return FleetEvent::Watching;
    }
    let events = result["events"].as_array().map_or(&[][..], Vec::as_slice);
    // The header may be ahead of the events, where more of them follow.
    if let Some(last) = events.iter().filter_map(|event| number(&event["kv"]["mod_revision"])).max() {
        head.revision = last;
    }
    let changes = events.iter().filter_map(|event| {
        if event["type"] == "DELETE" {
            return Some(FleetChange::Gone(key(&event["kv"])?));
        }
        entry(&event["kv"], prefix).map(FleetChange::Put)
    });
    FleetEvent::Changed(head, changes.collect())
}

/// The user's token in an answer to its authentication.
pub(super) fn token(status: u16, body: &[u8]) -> Result<String, String> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = values.next().and_then(Result::ok).unwrap_or_default();
    value["token"].as_str().map(str::to_owned).ok_or_else(|| {
        let text =
            String::from_utf8_lossy(&body[..body.len().min(ERROR_SHOWN_LEN)]).escape_debug().to_string();
        let message = value["message"].as_str().unwrap_or(&text);
        format!("the user is not taken: {message} (status {status})")
    })
}

fn error(value: &Value) -> Option<Said> {
    // A stream has the error in an object of its own.
    let error = if value["error"].is_object() { &value["error"] } else { value };
    let message = error["message"].as_str().or(value["error"].as_str())?;
    let code = number(&error["code"]).or(number(&error["grpc_code"])).unwrap_or(0);
    let message = message.trim_start_matches("etcdserver: ").to_owned();
    Some(match code {
        UNAUTHENTICATED => Said::Stale,
        NOT_FOUND if message.contains("lease not found") => Said::Event(FleetEvent::LeaseGone),
        PERMISSION_DENIED => Said::Event(FleetEvent::Denied(format!("the user may not do this: {message}"))),
        _ if message.contains("invalid auth token") => Said::Stale,
        _ => Said::Event(FleetEvent::Lost(message)),
    })
}

pub(super) fn head(value: &Value) -> Option<StoreHead> {
    let header = &value["header"];
    Some(StoreHead { cluster: number(&header["cluster_id"])?, revision: number(&header["revision"])? })
}

fn ttl(value: &Value) -> Duration {
    Duration::from_secs(number(&value["TTL"]).unwrap_or(0))
}

fn entries(value: &Value, prefix: &str) -> Vec<FleetEntry> {
    value["kvs"].as_array().into_iter().flatten().filter_map(|kv| entry(kv, prefix)).collect()
}

/// A key; `None`: it is of another purpose.
fn entry(kv: &Value, prefix: &str) -> Option<FleetEntry> {
    let key = key(kv)?;
    let value = BASE64.decode(kv["value"].as_str().unwrap_or_default().as_bytes()).ok()?;
    let record = read_record(key.strip_prefix(prefix)?, &value)?;
    Some(FleetEntry { key, revision: number(&kv["mod_revision"])?, record })
}

/// The name of a key, without letters that are not seen.
pub(super) fn key(kv: &Value) -> Option<Arc<str>> {
    let key = BASE64.decode(kv["key"].as_str()?.as_bytes()).ok()?;
    let key = String::from_utf8_lossy(&key);
    Some(if key.chars().any(char::is_control) { key.escape_debug().to_string().into() } else { key.into() })
}

pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

pub(super) fn base64(octets: &[u8]) -> String {
    BASE64.encode(octets)
}

/// The end of the range of all keys with this prefix, which ends in `/`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    end.last_mut().into_iter().for_each(|last| *last += 1);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/stoq/1/eu/";
    const HEADER: &str =
        r#""header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"9","raft_term":"2"}"#;

    fn said(request: &FleetRequest, status: u16, body: &str) -> FleetEvent {
        match answer(request, status, body.as_bytes(), PREFIX) {
            Said::Event(event) => event,
            Said::Stale => panic!("a stale token"),
        }
    }

    #[test]
    fn the_answers_of_etcd_3_4_are_read() {
        let head = StoreHead { cluster: 14841639068965178418, revision: 9 };
        let probed = said(&FleetRequest::Probe, 200, &format!("{{{HEADER}}}"));
        assert!(matches!(probed, FleetEvent::Probed(probed) if probed == head));
        let key = base64(b"/stoq/1/eu/fleet");
        let body = format!(
            r#"{{{HEADER},"kvs":[{{"key":"{key}","mod_revision":"4","value":"bm8="}}],"count":"1"}}"#
        );
        let FleetEvent::Listed(_, entries) = said(&FleetRequest::List, 200, &body) else { panic!("{body}") };
        assert_eq!((entries.len(), entries[0].revision, &*entries[0].key), (1, 4, "/stoq/1/eu/fleet"));

        let granted = said(
            &FleetRequest::Grant,
            200,
            &format!(r#"{{{HEADER},"ID":"7587899253864429576","TTL":"10"}}"#),
        );
        assert!(
            matches!(granted, FleetEvent::Granted(LeaseId(7587899253864429576), ttl) if ttl.as_secs() == 10)
        );
        let keep = FleetRequest::KeepAlive(LeaseId(123));
        let gone = said(&keep, 200, &format!(r#"{{"result":{{{HEADER},"ID":"123"}}}}"#));
        assert!(matches!(gone, FleetEvent::LeaseGone));
        let kept = said(&keep, 200, &format!(r#"{{"result":{{{HEADER},"ID":"123","TTL":"10"}}}}"#));
        assert!(matches!(kept, FleetEvent::KeptAlive(_)));
        let no_lease = r#"{"error":"etcdserver: requested lease not found","message":"etcdserver: requested lease not found","code":5}Grpc-Trailer-Content-Type: application/grpc"#;
        assert!(matches!(said(&keep, 404, no_lease), FleetEvent::LeaseGone));
        assert!(matches!(said(&FleetRequest::Revoke(LeaseId(1)), 404, no_lease), FleetEvent::Revoked));
        let denied =
            r#"{"error":"etcdserver: permission denied","message":"etcdserver: permission denied","code":7}"#;
        assert!(
            matches!(said(&FleetRequest::Grant, 403, denied), FleetEvent::Denied(why) if why.contains("may not do this"))
        );
        let stale = r#"{"error":"etcdserver: invalid auth token","message":"etcdserver: invalid auth token","code":16}"#;
        assert!(matches!(answer(&keep, 401, stale.as_bytes(), PREFIX), Said::Stale));
        assert!(matches!(said(&keep, 502, "<html>"), FleetEvent::Lost(why) if why.contains("status 502")));
        assert!(token(200, br#"{"token":"abc.1"}"#).is_ok_and(|token| token == "abc.1"));
        let refused = token(400, br#"{"error":"x","message":"authentication failed","code":3}"#).unwrap_err();
        assert!(refused.contains("the user is not taken: authentication failed"), "{refused}");
    }

    #[test]
    fn a_watch_is_created_tells_whole_revisions_and_ends_with_its_reason() {
        let line = |rest: &str| watched(format!(r#"{{"result":{{{HEADER}{rest}}}}}"#).as_bytes(), PREFIX);
        assert!(matches!(line(r#","created":true"#), FleetEvent::Watching));
        let (fleet, other) = (base64(b"/stoq/1/eu/fleet"), base64(b"/stoq/1/eu/classes/x"));
        let events = format!(
            r#","events":[{{"kv":{{"key":"{fleet}","mod_revision":"7","value":"bm8="}}}},{{"kv":{{"key":"{other}","mod_revision":"7"}}}},
            {{"type":"DELETE","kv":{{"key":"{fleet}","mod_revision":"8"}}}}]"#
        );
        let FleetEvent::Changed(head, changes) = line(&events) else { panic!("{events}") };
        assert_eq!((head.revision, changes.len()), (8, 2), "the header is ahead of the events");
        assert!(matches!(&changes[1], FleetChange::Gone(key) if **key == *"/stoq/1/eu/fleet"));
        assert!(
            matches!(line(""), FleetEvent::Changed(head, changes) if head.revision == 9 && changes.is_empty())
        );
        assert!(matches!(line(r#","canceled":true,"compact_revision":"5""#), FleetEvent::Compacted));
        let lost = line(r#","canceled":true,"cancel_reason":"etcdserver: no leader""#);
        assert!(matches!(lost, FleetEvent::Lost(why) if why.contains("no leader")));
        let error = br#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
        assert!(matches!(watched(error, PREFIX), FleetEvent::Lost(why) if why == "no leader"));
    }

    #[test]
    fn a_request_names_the_fleets_range_and_its_own_key() {
        let (path, body) = request(&FleetRequest::WatchFrom(12), PREFIX, "");
        assert_eq!(path, "/v3/watch");
        assert_eq!(body["create_request"]["start_revision"], "12");
        assert_eq!(body["create_request"]["range_end"], base64(b"/stoq/1/eu0"));
        let (_, body) = request(&FleetRequest::Grant, PREFIX, "");
        assert_eq!(body, json!({ "TTL": "10" }));
    }
}
