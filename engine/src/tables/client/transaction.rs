//! A transaction as its client sees it: optimistic reads, writes that nobody sees before it commits.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutwater_io::time;

use super::link::Lost;
use super::{Client, ClientError, FIRST_PAUSE, check_key, check_limit, error_of, new_tx, unexpected};
use crate::tables::ids::{LogIndex, PartitionId, TxId};
use crate::tables::near;
use crate::tables::reason::Reason;
use crate::tables::rows::{Change, MAX_VALUE_BYTES, Read};
use crate::tables::rpc::{Answer, Part, Question};

/// A transaction over any keys of any transactional tables. It is serializable: at commit all that it has read still holds, or it is
/// refused with [`ClientError::Conflict`]. Dropping it leaves nothing behind.
pub struct Transaction {
    client: Client,
    id: TxId,
    /// By table and key.
    reads: BTreeMap<(String, Bytes), Seen>,
    writes: BTreeMap<(String, Bytes), Option<Bytes>>,
}

/// A row as it was first read.
#[derive(Clone)]
struct Seen {
    partition: PartitionId,
    version: Option<LogIndex>,
    value: Option<Bytes>,
}

impl Transaction {
    pub(super) fn new(client: Client) -> Transaction {
        Transaction { client, id: new_tx(), reads: BTreeMap::new(), writes: BTreeMap::new() }
    }

    /// What it is called.
    pub fn id(&self) -> TxId {
        self.id
    }

    /// The row of a key, with what this transaction has written. The same key is read once.
    ///
    /// # Errors
    /// If the primary does not answer in time, or the row stays locked.
    pub async fn get(&mut self, table: &str, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        let name = (table.to_owned(), Bytes::copy_from_slice(key));
        if let Some(written) = self.writes.get(&name) {
            return Ok(written.clone());
        }
        if let Some(seen) = self.reads.get(&name) {
            return Ok(seen.value.clone());
        }
        let (partition, row) = self.client.read(table, key).await?;
        let (version, value) = (row.as_ref().map(|row| row.version), row.map(|row| row.value));
        self.reads.insert(name, Seen { partition, version, value: value.clone() });
        Ok(value)
    }

    /// Writes a row when it commits.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) {
        let name = (table.to_owned(), Bytes::copy_from_slice(key));
        self.writes.insert(name, Some(Bytes::copy_from_slice(value)));
    }

    /// Removes a row when it commits.
    pub fn delete(&mut self, table: &str, key: &[u8]) {
        self.writes.insert((table.to_owned(), Bytes::copy_from_slice(key)), None);
    }

    /// Commits. Once it returns, all of it is durable on all copies in sync, and whoever reads later sees it.
    ///
    /// # Errors
    /// See [`ClientError`]; of these only [`ClientError::OutcomeUnknown`] leaves open whether it is committed.
    pub async fn commit(self) -> Result<(), ClientError> {
        let parts = self.parts().await?;
        let Some(decider) =
            near::decider(&parts.iter().map(|p| (p.partition, !p.changes.is_empty())).collect())
        else {
            return Ok(());
        };
        let question = Question::Commit { tx: self.id, parts };
        let deadline = time::now() + self.client.inner.options.timeout;
        loop {
            let state = self.client.topology().state;
            // Near is best where the decider is.
            let nearest = state.view(decider).map(|view| view.primary);
            let nearest =
                nearest.and_then(|node| state.members.get(usize::from(node))).map(|member| member.address);
            for node in nearest.into_iter().chain(self.client.known_nodes()) {
                match self.client.ask(node, question.clone()).await {
                    Err(Lost::NotSent) => {}
                    Ok(Answer::Denied(Reason::Overloaded { .. })) => {}
                    Ok(Answer::Committed { .. }) => return Ok(()),
                    Ok(Answer::Aborted { reason, .. } | Answer::Denied(reason)) => {
                        return Err(error_of(reason, ""));
                    }
                    Ok(Answer::OutcomeUnknown) | Err(Lost::Unknown) => {
                        return Err(ClientError::OutcomeUnknown { tx: self.id });
                    }
                    Ok(other) => return Err(unexpected(&other)),
                }
            }
            if time::now() >= deadline {
                return Err(ClientError::NoPrimary { partition: decider });
            }
            time::sleep(FIRST_PAUSE * 4).await;
            self.client.learn().await?;
        }
    }

    async fn parts(&self) -> Result<Vec<Part>, ClientError> {
        let mut parts: BTreeMap<PartitionId, Part> = BTreeMap::new();
        let of = |partition| Part { partition, reads: Vec::new(), changes: Vec::new() };
        for ((_, key), seen) in &self.reads {
            let part = parts.entry(seen.partition).or_insert_with(|| of(seen.partition));
            part.reads.push(Read { key: key.clone(), version: seen.version });
        }
        for ((table, key), value) in &self.writes {
            check_key(key)?;
            check_limit("bytes of a value", value.as_ref().map_or(0, Bytes::len), MAX_VALUE_BYTES)?;
            let partition = self.client.partition(table, key).await?;
            let part = parts.entry(partition).or_insert_with(|| of(partition));
            part.changes.push(Change { key: key.clone(), value: value.clone() });
        }
        Ok(parts.into_values().collect())
    }
}
