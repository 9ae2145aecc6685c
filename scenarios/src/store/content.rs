//! Keys and values of the writers, and how contents are compared.

use std::path::Path;
use std::sync::Arc;

use cutwater_engine::store::Error;
use cutwater_io::fs;
use cutwater_sim::plan::Op;
use cutwater_sim::scenario::Violation;

use crate::oracle::batches::Content;

/// Stands between a value and what is appended to it.
pub(super) const DELIMITER: &[u8] = b"+";

/// Keys that each writer has, at most.
pub(super) const KEYS: u64 = 24;

pub(super) fn key(actor: usize, number: u64) -> Vec<u8> {
    format!("writer{actor}/key{number:04}").into_bytes()
}

/// Unique to the operation and to its place in it.
pub(super) fn value(op: &Op, index: u64, len_bytes: u64) -> Vec<u8> {
    let mut value = format!("op{}.{index}:", op.id).into_bytes();
    value.resize(value.len() + len_bytes as usize, b'.');
    value
}

pub(super) fn own((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

pub(super) async fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).await.map_err(|source| Error::Io {
        op: "list",
        path: dir.into(),
        source: Arc::new(source),
    })?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

pub(super) fn same(
    oracle: &str,
    property: &str,
    expected: &Content,
    found: &Content,
) -> Result<(), Violation> {
    let key = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key));
    match key {
        None => Ok(()),
        Some(key) => Err(Violation::new(oracle, property)
            .of("key")
            .expected(format!("{} = {}", show(Some(key)), show(expected.get(key))))
            .found(show(found.get(key)))),
    }
}

pub(super) fn same_value(
    property: &str,
    key: &[u8],
    expected: &Option<Vec<u8>>,
    found: &Option<Vec<u8>>,
) -> Result<(), Violation> {
    if expected == found {
        return Ok(());
    }
    let expected = format!("{} = {}", show(Some(key)), show(expected.as_ref()));
    Err(Violation::new("model", property).of("key").expected(expected).found(show(found.as_ref())))
}

/// Bytes for people: the part before the padding.
pub(super) fn show(bytes: Option<impl AsRef<[u8]>>) -> String {
    crate::oracle::batches::show(bytes)
}
