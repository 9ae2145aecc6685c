//! What an unaligned barrier overtook, on its way into the object store and back.
//!
//! All channels of a task share one object: the elements of each, one after the other, in the encoding that they travel in
//! ([`super::record`]). Where each channel begins is part of the snapshot ([`InFlight`]), and so is the checksum of the whole.
//!
//! When it is read back, possibly at another parallelism, each subtask keeps the records of its own key groups. The order
//! within a channel is kept, and with it that of the records of a key; channels follow each other. Records alone are
//! replayed. Whatever else lies between them says something about the channel that it came through, which is not there any
//! more; what a source says of its progress it says again after a restore.
//!
//! *Not modelled*: spilling. What is in flight is in memory, and bounded by [`MAX_BYTES`].

use bytes::{Bytes, BytesMut};

use super::record::{Decoder, Element};
use super::{Error, points};
use crate::checkpoint::snapshot::{CheckpointId, FileHandle, InFlight, InFlightChannel, KeyGroupRange};
use crate::cluster::rpc::TaskId;
use crate::state::blob::{self, Blobs};
use crate::state::key_groups;
use crate::state::upload::{Names, Uploaded};

/// How much may be in flight in a task, in bytes. A checkpoint that would hold more is declined.
pub const MAX_BYTES: usize = 256 << 20;

/// Elements in flight, by channel: sender, receiver, elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub Vec<(TaskId, TaskId, Bytes)>);

impl Content {
    /// The object, and where each channel is in it. `None` if nothing is in flight.
    fn layout(self) -> Option<(Bytes, Vec<InFlightChannel>)> {
        let (mut object, mut channels) = (BytesMut::new(), Vec::new());
        for (from, to, elements) in self.0.into_iter().filter(|(_, _, elements)| !elements.is_empty()) {
            let (offset_bytes, len_bytes) = (object.len() as u64, elements.len() as u64);
            channels.push(InFlightChannel { from, to, offset_bytes, len_bytes });
            object.extend_from_slice(&elements);
        }
        (!channels.is_empty()).then(|| (object.freeze(), channels))
    }
}

/// Makes it durable.
///
/// # Errors
/// If the store goes on failing.
pub async fn upload(
    blobs: &Blobs,
    names: &dyn Names,
    checkpoint: CheckpointId,
    content: Content,
    uploaded: &Uploaded,
) -> Result<Option<InFlight>, blob::Error> {
    let Some((object, channels)) = content.layout() else { return Ok(None) };
    let path = names.private(checkpoint);
    uploaded.note(&path);
    let handle = blobs.create(&path, object).await?;
    cutwater_io::sometimes!(points::IN_FLIGHT_PERSISTED, true);
    cutwater_io::point!(points::IN_FLIGHT_BEFORE_ACK);
    Ok(Some(InFlight { handle, channels }))
}

/// Reads what was in flight to a task, as it was handed over: the records of its key groups by sender, in an order that keeps
/// that of each channel.
///
/// # Errors
/// If an object is missing or not the one that was written, or holds something else than elements.
pub async fn read(
    blobs: &Blobs,
    to: TaskId,
    range: KeyGroupRange,
    max_parallelism: u16,
    handed: &[InFlight],
) -> Result<Vec<(TaskId, Vec<Element>)>, Error> {
    let mut objects = Vec::with_capacity(handed.len());
    for in_flight in handed {
        let failed = |source| Error::InFlight { task: to, source };
        objects.push((in_flight, blobs.read(&in_flight.handle).await.map_err(failed)?));
    }
    merge(to, range, max_parallelism, objects)
}

/// The elements to replay, out of objects in the order in which they were handed over.
fn merge(
    to: TaskId,
    range: KeyGroupRange,
    max_parallelism: u16,
    objects: Vec<(&InFlight, Bytes)>,
) -> Result<Vec<(TaskId, Vec<Element>)>, Error> {
    let mut slices = Vec::new();
    for (InFlight { handle, channels }, object) in objects {
        for channel in channels {
            cutwater_io::sometimes!(points::IN_FLIGHT_RESCALED, channel.to.subtask != to.subtask);
            slices.push(((channel.from, channel.to), slice(to, handle, &object, channel)?));
        }
    }
    // Stable: of each channel, what the receiver had was handed over before what the sender had.
    slices.sort_by_key(|(channel, _)| *channel);
    let mut replay = Vec::with_capacity(slices.len());
    for ((from, _), elements) in slices {
        let malformed = |source| Error::Malformed { from, to, source };
        let mut decoder = Decoder::new(elements);
        let mut kept = Vec::new();
        while let Some(element) = decoder.element().map_err(malformed)? {
            let Element::Record(record) = &element else { continue };
            let group = key_groups::key_group(&record.key, max_parallelism);
            if (range.first..=range.last).contains(&group) {
                kept.push(element);
            }
        }
        replay.push((from, kept));
    }
    Ok(replay)
}

fn slice(
    task: TaskId,
    handle: &FileHandle,
    object: &Bytes,
    channel: &InFlightChannel,
) -> Result<Bytes, Error> {
    let from = usize::try_from(channel.offset_bytes).ok();
    let to = channel.offset_bytes.checked_add(channel.len_bytes).and_then(|end| usize::try_from(end).ok());
    match (from, to) {
        (Some(from), Some(to)) if from <= to && to <= object.len() => Ok(object.slice(from..to)),
        _ => {
            let what = format!("elements in flight beyond the end of {}", handle.path);
            Err(Error::Deployment { task, what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::record::Record;
    use proptest::prelude::*;

    const MAX: u16 = 16;

    proptest! {
        #[test]
        fn every_record_is_replayed_once_by_the_owner_of_its_key(
            channels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..4), parallelism in 1u16..5,
        ) {
            let task = |vertex, subtask| TaskId { vertex, subtask };
            let record = |key: u8, n: usize| Element::Record(Record::new(vec![key], vec![n as u8]));
            let content = (0u16..).zip(&channels).map(|(from, keys)| {
                let mut bytes = BytesMut::new();
                keys.iter().enumerate().for_each(|(n, key)| record(*key, n).encode(&mut bytes));
                (task(0, from), task(1, 0), bytes.freeze())
            });
            let content = Content(content.collect());
            let Some((object, channels_of_object)) = content.layout() else {
                prop_assert!(channels.iter().all(Vec::is_empty));
                return Ok(());
            };
            let handle = blob::handle("o", &object);
            let in_flight = InFlight { handle, channels: channels_of_object };
            in_flight.check(task(1, 0)).unwrap();
            let mut found = Vec::new();
            for subtask in 0..parallelism {
                let range = key_groups::range(subtask, parallelism, MAX);
                let objects = vec![(&in_flight, object.clone())];
                for (from, elements) in merge(task(1, subtask), range, MAX, objects).unwrap() {
                    for pair in elements.windows(2) {
                        let (Element::Record(a), Element::Record(b)) = (&pair[0], &pair[1]) else { panic!("{pair:?}") };
                        prop_assert!(a.value < b.value, "the order of a channel");
                    }
                    found.extend(elements.into_iter().map(|element| (from, element)));
                }
            }
            let mut all: Vec<(TaskId, Element)> = (0u16..)
                .zip(&channels)
                .flat_map(|(from, keys)| keys.iter().enumerate().map(move |(n, key)| (task(0, from), record(*key, n))))
                .collect();
            let by_text = |e: &(TaskId, Element)| format!("{e:?}");
            found.sort_by_key(by_text);
            all.sort_by_key(by_text);
            prop_assert_eq!(found, all);
        }

        #[test]
        fn hostile_slices_and_bytes_are_errors(
            object in proptest::collection::vec(any::<u8>(), 0..40), offset_bytes: u64, len_bytes in 0u64..50, small in 0u64..50,
        ) {
            let task = |vertex| TaskId { vertex, subtask: 0 };
            let object = Bytes::from(object);
            let handle = blob::handle("o", &object);
            for offset_bytes in [offset_bytes, small] {
                let channels = vec![InFlightChannel { from: task(0), to: task(1), offset_bytes, len_bytes }];
                let in_flight = InFlight { handle: handle.clone(), channels };
                let range = KeyGroupRange { first: 0, last: MAX - 1 };
                let merged = merge(task(1), range, MAX, vec![(&in_flight, object.clone())]);
                prop_assert!(merged.is_err() || in_flight.check(task(1)).is_ok());
            }
        }
    }
}
