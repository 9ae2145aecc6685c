//! The functions that jobs are made of: operators on items of the user's types instead of bytes.
//!
//! Items travel in postcard as the value of a record. A function gets what it remembers through its context, by the
//! descriptors of [`crate::state`], and hands on items through a [`Collector`]. It must keep nothing else: a task may be
//! restarted from a checkpoint at any moment, and the function is then made anew.
//!
//! Functions of windows are in [`super::window`], of joins in [`super::join`].

use std::cell::RefCell;
use std::marker::PhantomData;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use super::operator::{Context, KeyedOperator, Moment, PlainOperator};
use super::record::Record;
use crate::state::operator_state::OperatorState;
use crate::state::{Data, Timer};

/// Takes what a function emits.
#[derive(Debug)]
pub struct Collector<'a, T> {
    out: &'a mut Vec<Record>,
    time_ms: i64,
    failed: Option<String>,
    of: PhantomData<fn(T)>,
}

impl<'a, T: Data> Collector<'a, T> {
    /// For what is emitted at a time.
    pub(crate) fn new(out: &'a mut Vec<Record>, time_ms: i64) -> Collector<'a, T> {
        Collector { out, time_ms, failed: None, of: PhantomData }
    }

    /// Emits an item with the time of the record or timer at hand.
    pub fn collect(&mut self, item: T) {
        match encode(&item) {
            Ok(value) => self.out.push(Record::new(Bytes::new(), value).at(self.time_ms)),
            Err(what) => drop(self.failed.get_or_insert(what)),
        }
    }

    /// True to its word only if all that was collected could be encoded.
    pub(crate) fn finish(self, uid: &str) -> Result<(), Error> {
        self.failed.map_or(Ok(()), |what| Err(Error::Record { operator: uid.into(), what }))
    }
}

/// What is done with each item of a keyed stream, with state and timers of its key.
#[async_trait]
pub trait ProcessFunction<K: Data, T: Data>: Send {
    /// What it emits.
    type Out: Data;

    /// An item has come.
    ///
    /// # Errors
    /// If the state fails: the task does, too.
    async fn process(
        &mut self,
        key: &K,
        item: T,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;

    /// A timer of the key, set with [`crate::state::KeyedState::set_timer`], is due.
    ///
    /// # Errors
    /// As [`ProcessFunction::process`].
    async fn on_timer(
        &mut self,
        key: &K,
        time_ms: i64,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error> {
        let _ = (key, time_ms, context, out);
        Ok(())
    }
}

/// What is done with the items of two keyed streams that meet, with state and timers of their common key.
#[async_trait]
pub trait CoProcessFunction<K: Data, L: Data, R: Data>: Send {
    /// What it emits.
    type Out: Data;

    /// An item of the left stream has come.
    ///
    /// # Errors
    /// If the state fails: the task does, too.
    async fn process_left(
        &mut self,
        key: &K,
        item: L,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;

    /// An item of the right stream has come.
    ///
    /// # Errors
    /// As [`CoProcessFunction::process_left`].
    async fn process_right(
        &mut self,
        key: &K,
        item: R,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;

    /// A timer of the key is due.
    ///
    /// # Errors
    /// As [`CoProcessFunction::process_left`].
    async fn on_timer(
        &mut self,
        key: &K,
        time_ms: i64,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error> {
        let _ = (key, time_ms, context, out);
        Ok(())
    }
}

/// What is done with each item of a stream without keys, with state of the subtask.
pub trait StreamFunction<T: Data>: Send {
    /// What it emits.
    type Out: Data;

    /// An item has come.
    ///
    /// # Errors
    /// If the state holds something else: the task fails.
    fn process(
        &mut self,
        item: T,
        moment: Moment,
        state: &mut OperatorState,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;
}

/// What is done with each item of a stream, given what was broadcast to all subtasks.
pub trait BroadcastFunction<T: Data, B: Data>: Send {
    /// What it emits.
    type Out: Data;

    /// An item has come.
    ///
    /// # Errors
    /// As [`StreamFunction::process`].
    fn process(
        &mut self,
        item: T,
        moment: Moment,
        state: &mut OperatorState,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;

    /// Something was broadcast. All subtasks must remember the same of it.
    ///
    /// # Errors
    /// As [`StreamFunction::process`].
    fn process_broadcast(
        &mut self,
        item: B,
        state: &mut OperatorState,
        out: &mut Collector<'_, Self::Out>,
    ) -> Result<(), Error>;
}

/// How much memory encoded items share, in bytes. It is freed with the last of them.
const CHUNK_BYTES: usize = 16 << 10;

thread_local! {
    static CHUNK: RefCell<BytesMut> = RefCell::default();
}

/// The bytes of an item. Small ones lie in a chunk with others: an allocation for each would cost more than the encoding.
pub(crate) fn encode<T: Serialize>(item: &T) -> Result<Bytes, String> {
    let mut chunk = CHUNK.take();
    if chunk.capacity() < CHUNK_BYTES / 64 {
        chunk.reserve(CHUNK_BYTES);
    }
    let encoded =
        postcard::serialize_with_flavor(item, InChunk(&mut chunk)).map_err(|error| error.to_string());
    // Of one that failed a part is there.
    chunk.clear();
    CHUNK.set(chunk);
    encoded
}

struct InChunk<'a>(&'a mut BytesMut);

impl Flavor for InChunk<'_> {
    type Output = Bytes;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Bytes> {
        Ok(self.0.split().freeze())
    }
}

/// The item of some bytes.
pub(crate) fn decode<T: DeserializeOwned>(uid: &str, bytes: &[u8]) -> Result<T, Error> {
    let wrong = |what: String| Error::Record {
        operator: uid.into(),
        what: format!("that is not of its type: {what}"),
    };
    match postcard::take_from_bytes(bytes) {
        Ok((item, [])) => Ok(item),
        Ok((_, rest)) => Err(wrong(format!("{} bytes follow the item", rest.len()))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A [`ProcessFunction`] as an operator on bytes.
pub(crate) struct Process<F, K, T> {
    pub(crate) uid: String,
    pub(crate) function: F,
    pub(crate) of: PhantomData<fn(K, T)>,
}

#[async_trait]
impl<F: ProcessFunction<K, T>, K: Data, T: Data> KeyedOperator for Process<F, K, T> {
    async fn process(
        &mut self,
        record: Record,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let (key, item) = (decode(&self.uid, &record.key)?, decode(&self.uid, &record.value)?);
        let mut out = Collector::new(out, record.time_ms);
        self.function.process(&key, item, context, &mut out).await?;
        out.finish(&self.uid)
    }

    async fn on_timer(
        &mut self,
        timer: Timer,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let key = decode(&self.uid, &timer.key)?;
        let mut out = Collector::new(out, timer.time_ms);
        self.function.on_timer(&key, timer.time_ms, context, &mut out).await?;
        out.finish(&self.uid)
    }
}

/// A [`CoProcessFunction`] as an operator on bytes: input 0 is the left one, input 1 the right one.
pub(crate) struct CoProcess<F, K, L, R> {
    pub(crate) uid: String,
    pub(crate) function: F,
    pub(crate) of: PhantomData<fn(K, L, R)>,
}

#[async_trait]
impl<F: CoProcessFunction<K, L, R>, K: Data, L: Data, R: Data> KeyedOperator for CoProcess<F, K, L, R> {
    async fn process(
        &mut self,
        record: Record,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let key = decode(&self.uid, &record.key)?;
        let mut out = Collector::new(out, record.time_ms);
        if record.input == 0 {
            let item = decode(&self.uid, &record.value)?;
            self.function.process_left(&key, item, context, &mut out).await?;
        } else {
            let item = decode(&self.uid, &record.value)?;
            self.function.process_right(&key, item, context, &mut out).await?;
        }
        out.finish(&self.uid)
    }

    async fn on_timer(
        &mut self,
        timer: Timer,
        context: &mut Context<'_>,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let key = decode(&self.uid, &timer.key)?;
        let mut out = Collector::new(out, timer.time_ms);
        self.function.on_timer(&key, timer.time_ms, context, &mut out).await?;
        out.finish(&self.uid)
    }
}

/// A [`StreamFunction`] as an operator on bytes.
pub(crate) struct Plain<F, T> {
    pub(crate) uid: String,
    pub(crate) function: F,
    pub(crate) of: PhantomData<fn(T)>,
}

impl<F: StreamFunction<T>, T: Data> PlainOperator for Plain<F, T> {
    fn process(
        &mut self,
        record: Record,
        moment: Moment,
        state: &mut OperatorState,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let mut out = Collector::new(out, record.time_ms);
        self.function.process(decode(&self.uid, &record.value)?, moment, state, &mut out)?;
        out.finish(&self.uid)
    }
}

/// A [`BroadcastFunction`] as an operator on bytes: input 1 is what is broadcast.
pub(crate) struct WithBroadcast<F, T, B> {
    pub(crate) uid: String,
    pub(crate) function: F,
    pub(crate) of: PhantomData<fn(T, B)>,
}

impl<F: BroadcastFunction<T, B>, T: Data, B: Data> PlainOperator for WithBroadcast<F, T, B> {
    fn process(
        &mut self,
        record: Record,
        moment: Moment,
        state: &mut OperatorState,
        out: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let mut out = Collector::new(out, record.time_ms);
        if record.input == 1 {
            self.function.process_broadcast(decode(&self.uid, &record.value)?, state, &mut out)?;
        } else {
            self.function.process(decode(&self.uid, &record.value)?, moment, state, &mut out)?;
        }
        out.finish(&self.uid)
    }
}
