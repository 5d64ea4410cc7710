//! What a store keeps, for `stoq-gateway store`: pages of JSON, from a running gateway's endpoint or from the store itself.

use crate::leases::{self, HolderName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use stoq::limits::LISTED_LEN_MAX;
use stoq::record::{LeaseHolder, LeaseScope, List};
use stoq::seed::{GivenUp, Store, StoreError};
use stoq::token::AnyToken;

/// A wrong query, or a failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreQueryError {
    /// A value of the query.
    #[error("{0}: {1}")]
    Value(&'static str, String),
    /// The token of the query.
    #[error("token: give one payload or set")]
    NoToken,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The values of a query. None of them needs an escape.
pub struct StoreQuery(BTreeMap<String, String>);

impl StoreQuery {
    /// Reads a query such as `owner=cache&len=5`.
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn value<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, StoreQueryError> {
        let value = self.0.get(name).map(|text| text.parse());
        value.transpose().map_err(|error: T::Err| StoreQueryError::Value(name, error.to_string()))
    }

    fn token(&self) -> Result<AnyToken, StoreQueryError> {
        self.value("token")?.ok_or(StoreQueryError::NoToken)
    }

    fn holder(&self, name: &'static str) -> Result<Option<LeaseHolder>, StoreQueryError> {
        Ok(self.value::<HolderName>(name)?.map(|holder| holder.0))
    }
}

/// The query of a list.
pub fn query_of(list: &List) -> String {
    let mut query = format!(
        "min={}&max={}&ends={}&len={}",
        list.length_min_bytes, list.length_max_bytes, list.ends_s, list.entries_max
    );
    if let Some(after) = list.after {
        query += &format!("&after={after}");
    }
    if let Some(holder) = list.holder {
        query += &format!("&owner={}", HolderName(holder));
    }
    query
}

/// Seconds since the Unix epoch.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A page of the store's entries: `{"entries":[…],"next":TOKEN}`.
///
/// # Errors
/// A value of the query that is none.
pub fn list(store: &Store, query: &StoreQuery) -> Result<Value, StoreQueryError> {
    let list = List {
        scope: LeaseScope::All,
        after: query.value("after")?,
        holder: query.holder("owner")?,
        length_min_bytes: query.value("min")?.unwrap_or_default(),
        length_max_bytes: query.value("max")?.unwrap_or_default(),
        ends_s: query.value("ends")?.unwrap_or_default(),
        entries_max: query.value("len")?.unwrap_or_default(),
    };
    let page = store.list_page(&list, LeaseHolder::Anonymous, now_s());
    let entries: Vec<_> = page.entries.iter().map(leases::entry).collect();
    Ok(json!({ "entries": entries, "next": page.next.map(|next| next.to_string()) }))
}

/// What is kept of a token; null if nothing is.
///
/// # Errors
/// A query without a token.
pub fn stat(store: &Store, query: &StoreQuery) -> Result<Value, StoreQueryError> {
    let found = store.stat(query.token()?, LeaseScope::All, LeaseHolder::Anonymous, now_s());
    Ok(found.as_ref().map_or(Value::Null, leases::entry))
}

/// The sums over all entries, and a page of what is kept for each owner.
///
/// # Errors
/// A value of the query that is none.
pub fn usage(store: &Store, query: &StoreQuery) -> Result<Value, StoreQueryError> {
    let kept = store.kept_for(query.holder("after")?, LISTED_LEN_MAX);
    let next = kept.last().filter(|_| kept.len() == LISTED_LEN_MAX);
    let next = next.map(|last| HolderName(last.holder).to_string());
    let owners: Vec<_> = kept.iter().map(leases::kept).collect();
    Ok(json!({ "sums": store.census(), "owners": owners, "next": next }))
}

/// Removes a token for an owner, or for all: `{"found":…,"kept":…}`. Also returns the tokens that are gone.
///
/// # Errors
/// A query without a token; a store that cannot be written.
pub fn remove(store: &Store, query: &StoreQuery) -> Result<(Value, Vec<AnyToken>), StoreQueryError> {
    let token = query.token()?;
    let given_up = match query.holder("owner")? {
        Some(owner) => store.end_lease_of(token, owner)?,
        None if store.remove(token)? => GivenUp::Gone(vec![token]),
        None => GivenUp::NoLease,
    };
    store.sync_removals()?;
    let (found, kept) = (given_up != GivenUp::NoLease, given_up == GivenUp::Kept);
    let gone = if let GivenUp::Gone(gone) = given_up { gone } else { Vec::new() };
    Ok((json!({ "operation": "remove", "token": token.to_string(), "found": found, "kept": kept }), gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_back_from_its_query_and_a_wrong_value_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), stoq::seed::StoreConfig::default()).unwrap();
        let list_of = |query: &str| list(&store, &StoreQuery::parse(query));
        let after = Some(stoq::token::Token::of(b"x").into());
        let asked = List { after, holder: Some(LeaseHolder::Cache), entries_max: 5, ..List::default() };
        assert_eq!(list_of(&query_of(&asked)).unwrap(), json!({ "entries": [], "next": null }));
        assert_eq!(list_of("").unwrap()["next"], Value::Null);
        for (query, part) in [("after=b3:0", "after: "), ("owner=me", "owner: "), ("len=-1", "len: ")] {
            assert!(list_of(query).unwrap_err().to_string().starts_with(part), "{query}");
        }
        let error = stat(&store, &StoreQuery::parse("")).unwrap_err();
        assert_eq!(error.to_string(), "token: give one payload or set");
    }
}
