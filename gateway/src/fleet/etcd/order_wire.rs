//! The JSON of an operator's requests.

use super::super::exchange::StoreHead;
use super::super::orders::{StoreCondition, StoreSnapshot, StoreTransaction, StoredKey};
use super::wire::{base64, end_of, head, key, number};
use data_encoding::BASE64;
use serde_json::{Value, json};

/// The body of a transaction.
pub(super) fn transaction(transaction: &StoreTransaction, prefix: &str) -> Value {
    let whole = |key: &str| base64(format!("{prefix}{key}").as_bytes());
    let compare = transaction.conditions.iter().map(|condition| match condition {
        StoreCondition::Absent(key) => {
            json!({ "key": whole(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0" })
        }
        StoreCondition::Unchanged(key, revision) => {
            json!({ "key": whole(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() })
        }
        StoreCondition::NonePut(below, revision) => {
            let range_end = base64(&end_of(&format!("{prefix}{below}")));
            let revision = revision.saturating_add(1).to_string();
            json!({ "key": whole(below), "range_end": range_end, "target": "MOD", "result": "LESS", "mod_revision": revision })
        }
    });
    let puts = transaction.puts.iter();
    let puts =
        puts.map(|(key, value)| json!({ "request_put": { "key": whole(key), "value": base64(value) } }));
    json!({ "compare": compare.collect::<Vec<_>>(), "success": puts.collect::<Vec<_>>() })
}

/// Every key of an answer.
pub(super) fn snapshot(value: &Value, prefix: &str) -> Option<StoreSnapshot> {
    let head: StoreHead = head(value)?;
    let keys = value["kvs"].as_array().into_iter().flatten().filter_map(|kv| {
        let key = key(kv)?.strip_prefix(prefix)?.into();
        let value = BASE64.decode(kv["value"].as_str().unwrap_or_default().as_bytes()).ok()?;
        Some(StoredKey { key, value, revision: number(&kv["mod_revision"])? })
    });
    Some(StoreSnapshot { head, keys: keys.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_names_its_conditions_and_an_answer_has_every_key_of_the_fleet() {
        let conditions = vec![
            StoreCondition::Absent("server-ids/000001".into()),
            StoreCondition::Unchanged("fleet".into(), 7),
            StoreCondition::NonePut("gateways/".into(), 9),
        ];
        let puts = vec![("fleet".to_owned(), b"no".to_vec())];
        let body = transaction(&StoreTransaction { conditions, puts }, "/stoq/1/eu/");
        let compare = &body["compare"];
        assert_eq!(compare[0]["key"], base64(b"/stoq/1/eu/server-ids/000001"));
        assert_eq!((&compare[0]["target"], &compare[0]["create_revision"]), (&json!("CREATE"), &json!("0")));
        assert_eq!((&compare[1]["result"], &compare[1]["mod_revision"]), (&json!("EQUAL"), &json!("7")));
        assert_eq!(compare[2]["range_end"], base64(b"/stoq/1/eu/gateways0"));
        assert_eq!((&compare[2]["result"], &compare[2]["mod_revision"]), (&json!("LESS"), &json!("10")));
        assert_eq!(body["success"][0]["request_put"]["value"], base64(b"no"));
        let kv = json!({ "key": base64(b"/stoq/1/eu/classes/x"), "mod_revision": "4", "value": "bm8=" });
        let answer = json!({ "header": { "cluster_id": "3", "revision": "9" }, "kvs": [kv] });
        let read = snapshot(&answer, "/stoq/1/eu/").unwrap();
        assert_eq!((read.head.revision, &*read.keys[0].key, read.keys[0].revision), (9, "classes/x", 4));
        assert!(snapshot(&json!({}), "/stoq/1/eu/").is_none());
    }
}
