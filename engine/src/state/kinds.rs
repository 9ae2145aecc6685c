//! The kinds of keyed state: what a key may remember.
//!
//! A descriptor is a constant of the operator; it says what the state is called, of what kind and type it is. It acts on the
//! current key of a [`KeyedState`]:
//! ```ignore
//! const SEEN: ValueState<u64> = ValueState::new("seen");
//! let seen = SEEN.get(state).await?.unwrap_or(0);
//! SEEN.put(state, &(seen + 1)).await?;
//! ```
//! The *name* identifies the state, over restarts and versions of the job: [`StateId::of`] makes its place in the store of
//! it. Two names with the same id, or a name that now stands for another kind than in the checkpoint, are errors, never a
//! mix-up; see [`KeyedState::declare`]. Values are in postcard; a type that changed such that old bytes do not decode is an
//! error that names the state.
//!
//! | kind | in the store |
//! |---|---|
//! | value, reducing | one entry |
//! | list | its length, and an entry per element |
//! | map | an entry per key |

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::backend::{Place, Scan};
use super::{Error, KeyedState, StateId};
use crate::checkpoint::snapshot::StateKind;

/// One value per key.
#[derive(Debug)]
pub struct ValueState<T> {
    name: &'static str,
    id: StateId,
    of: PhantomData<fn() -> T>,
}

/// Elements in the order in which they were added.
#[derive(Debug)]
pub struct ListState<T> {
    name: &'static str,
    id: StateId,
    of: PhantomData<fn() -> T>,
}

/// Values by a second key.
#[derive(Debug)]
pub struct MapState<K, V> {
    name: &'static str,
    id: StateId,
    of: PhantomData<fn() -> (K, V)>,
}

/// What is left of all values that were added.
#[derive(Debug)]
pub struct ReducingState<T> {
    value: ValueState<T>,
    reduce: fn(T, T) -> T,
}

/// What can be kept.
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

fn encode<T: Serialize>(state: &KeyedState, name: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value).map_err(|source| state.wrong(name, source.to_string()))
}

fn decode<T: DeserializeOwned>(state: &KeyedState, name: &'static str, bytes: &[u8]) -> Result<T, Error> {
    let wrong = |what| state.wrong(name, format!("{} bytes: {what}", bytes.len()));
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(wrong("longer than a value of its type".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

async fn read<T: Data>(
    state: &mut KeyedState,
    name: &'static str,
    place: Place<'_>,
) -> Result<Option<T>, Error> {
    let read = state.read(place, |bytes| {
        bytes.map(|bytes| postcard::take_from_bytes(bytes).map(|(v, rest)| (v, rest.len())))
    });
    match read.await? {
        None => Ok(None),
        Some(Ok((value, 0))) => Ok(Some(value)),
        Some(Ok(_)) => Err(state.wrong(name, "a stored value is longer than one of its type".into())),
        Some(Err(error)) => Err(state.wrong(name, error.to_string())),
    }
}

impl<T: Data> ValueState<T> {
    /// Under a name that is unique in the operator.
    pub const fn new(name: &'static str) -> Self {
        ValueState { name, id: StateId::of(name), of: PhantomData }
    }

    fn declare(&self, state: &mut KeyedState) -> Result<(), Error> {
        state.declare(self.id, self.name, StateKind::Value)
    }

    /// The value of the current key.
    ///
    /// # Errors
    /// If the store fails or holds something else; so for all of these.
    pub async fn get(&self, state: &mut KeyedState) -> Result<Option<T>, Error> {
        self.declare(state)?;
        read(state, self.name, Place::Value(self.id)).await
    }

    /// Sets the value of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn put(&self, state: &mut KeyedState, value: &T) -> Result<(), Error> {
        self.declare(state)?;
        let bytes = encode(state, self.name, value)?;
        state.write(Place::Value(self.id), Some(&bytes)).await
    }

    /// Forgets the value of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn clear(&self, state: &mut KeyedState) -> Result<(), Error> {
        self.declare(state)?;
        state.write(Place::Value(self.id), None).await
    }
}

impl<T: Data> ReducingState<T> {
    /// Under a name that is unique in the operator; `reduce` is associative.
    pub const fn new(name: &'static str, reduce: fn(T, T) -> T) -> Self {
        ReducingState { value: ValueState::new(name), reduce }
    }

    fn declare(&self, state: &mut KeyedState) -> Result<(), Error> {
        state.declare(self.value.id, self.value.name, StateKind::Reducing)
    }

    /// What all that was added to the current key comes to.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn get(&self, state: &mut KeyedState) -> Result<Option<T>, Error> {
        self.declare(state)?;
        read(state, self.value.name, Place::Value(self.value.id)).await
    }

    /// Adds to the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn add(&self, state: &mut KeyedState, value: T) -> Result<(), Error> {
        let sum = match self.get(state).await? {
            None => value,
            Some(before) => (self.reduce)(before, value),
        };
        let bytes = encode(state, self.value.name, &sum)?;
        state.write(Place::Value(self.value.id), Some(&bytes)).await
    }

    /// Forgets what was added to the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn clear(&self, state: &mut KeyedState) -> Result<(), Error> {
        self.declare(state)?;
        state.write(Place::Value(self.value.id), None).await
    }
}

impl<T: Data> ListState<T> {
    /// Under a name that is unique in the operator.
    pub const fn new(name: &'static str) -> Self {
        ListState { name, id: StateId::of(name), of: PhantomData }
    }

    /// Appends to the list of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn add(&self, state: &mut KeyedState, value: &T) -> Result<(), Error> {
        self.add_in(state, &[], value).await
    }

    /// The list of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn get(&self, state: &mut KeyedState) -> Result<Vec<T>, Error> {
        self.get_in(state, &[]).await
    }

    /// Empties the list of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn clear(&self, state: &mut KeyedState) -> Result<(), Error> {
        self.clear_in(state, &[]).await
    }

    /// How many elements the list of the current key has.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn len(&self, state: &mut KeyedState) -> Result<u64, Error> {
        self.len_in(state, &[]).await
    }

    /// As [`ListState::add`], for one of several lists of a key. All namespaces of one state have the same length.
    pub(crate) async fn add_in(
        &self,
        state: &mut KeyedState,
        namespace: &[u8],
        value: &T,
    ) -> Result<(), Error> {
        let len = self.len_in(state, namespace).await?;
        let bytes = encode(state, self.name, value)?;
        let suffix = [namespace, &len.to_be_bytes()].concat();
        state.write(Place::Entry(self.id, &suffix), Some(&bytes)).await?;
        let longer = len.checked_add(1).ok_or_else(|| state.wrong(self.name, format!("a list of {len}")))?;
        let bytes = encode(state, self.name, &longer)?;
        state.write(Place::Entry(self.id, namespace), Some(&bytes)).await
    }

    pub(crate) async fn get_in(&self, state: &mut KeyedState, namespace: &[u8]) -> Result<Vec<T>, Error> {
        let len = self.len_in(state, namespace).await?;
        let mut list = Vec::new();
        if len > 0 {
            let mut entries = self.elements(state, namespace).await?;
            while let Some((_, bytes)) = entries.next(state).await? {
                list.push(decode(state, self.name, &bytes)?);
            }
        }
        if list.len() as u64 == len {
            Ok(list)
        } else {
            Err(state.wrong(self.name, format!("{} elements of a list of {len}", list.len())))
        }
    }

    pub(crate) async fn clear_in(&self, state: &mut KeyedState, namespace: &[u8]) -> Result<(), Error> {
        if self.len_in(state, namespace).await? == 0 {
            return Ok(());
        }
        let mut entries = state.scan(self.id, namespace).await?;
        while let Some((suffix, _)) = entries.next(state).await? {
            state.write(Place::Entry(self.id, &suffix), None).await?;
        }
        Ok(())
    }

    async fn len_in(&self, state: &mut KeyedState, namespace: &[u8]) -> Result<u64, Error> {
        state.declare(self.id, self.name, StateKind::List)?;
        Ok(read(state, self.name, Place::Entry(self.id, namespace)).await?.unwrap_or(0))
    }

    /// The elements alone: what has an index behind the namespace.
    async fn elements(&self, state: &mut KeyedState, namespace: &[u8]) -> Result<Scan, Error> {
        let mut entries = state.scan(self.id, namespace).await?;
        // The first entry is the length, which was just read.
        entries.next(state).await?;
        Ok(entries)
    }
}

impl<K: Data, V: Data> MapState<K, V> {
    /// Under a name that is unique in the operator.
    pub const fn new(name: &'static str) -> Self {
        MapState { name, id: StateId::of(name), of: PhantomData }
    }

    fn suffix(&self, state: &mut KeyedState, key: &K) -> Result<Vec<u8>, Error> {
        state.declare(self.id, self.name, StateKind::Map)?;
        encode(state, self.name, key)
    }

    /// The value under `key` in the map of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn get(&self, state: &mut KeyedState, key: &K) -> Result<Option<V>, Error> {
        let suffix = self.suffix(state, key)?;
        read(state, self.name, Place::Entry(self.id, &suffix)).await
    }

    /// Sets the value under `key` in the map of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn put(&self, state: &mut KeyedState, key: &K, value: &V) -> Result<(), Error> {
        let suffix = self.suffix(state, key)?;
        let bytes = encode(state, self.name, value)?;
        state.write(Place::Entry(self.id, &suffix), Some(&bytes)).await
    }

    /// Removes what is under `key` in the map of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn remove(&self, state: &mut KeyedState, key: &K) -> Result<(), Error> {
        let suffix = self.suffix(state, key)?;
        state.write(Place::Entry(self.id, &suffix), None).await
    }

    /// The whole map of the current key, in the order of the encoded keys.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn entries(&self, state: &mut KeyedState) -> Result<Vec<(K, V)>, Error> {
        state.declare(self.id, self.name, StateKind::Map)?;
        let mut scan = state.scan(self.id, &[]).await?;
        let mut entries = Vec::new();
        while let Some((suffix, bytes)) = scan.next(state).await? {
            entries.push((decode(state, self.name, &suffix)?, decode(state, self.name, &bytes)?));
        }
        Ok(entries)
    }

    /// Empties the map of the current key.
    ///
    /// # Errors
    /// As [`ValueState::get`].
    pub async fn clear(&self, state: &mut KeyedState) -> Result<(), Error> {
        state.declare(self.id, self.name, StateKind::Map)?;
        let mut scan = state.scan(self.id, &[]).await?;
        while let Some((suffix, _)) = scan.next(state).await? {
            state.write(Place::Entry(self.id, &suffix), None).await?;
        }
        Ok(())
    }
}
