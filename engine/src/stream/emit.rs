//! What leaves a task: each record goes over every edge, through the edge's steps, to the subtasks that its exchange says.
//!
//! Steps without state (map, filter, key by) belong to an edge and run here, in the task that sends: they cost no channel and
//! no encoding of their own (operator chaining, in Flink's words).

use std::ops::{Deref, DerefMut};

use super::Error;
use super::channel::Output;
use super::exchange::Exchange;
use super::graph::Step;
use super::record::{Element, Record};
use super::watermark::Progress;

/// One edge out of a task.
pub struct Route {
    /// Which of the vertices that the task sends to, by its place in the [`Output`].
    pub vertex: usize,
    /// Which of its subtasks.
    pub exchange: Exchange,
    /// Which of its inputs.
    pub input: u8,
    /// What is done on the way.
    pub step: Option<Step>,
}

/// See the module. Barriers and flushes are the [`Output`]'s own.
pub struct Emitter {
    output: Output,
    routes: Vec<Route>,
    /// What a step made of a record.
    made: Vec<Record>,
}

impl Emitter {
    /// Over the channels of `output`.
    pub fn new(output: Output, routes: Vec<Route>) -> Emitter {
        Emitter { output, routes, made: Vec::new() }
    }

    /// Sends a record over each edge. It may stay in a batch until [`Output::flush`].
    ///
    /// # Errors
    /// If a step refuses it.
    pub fn emit(&mut self, record: &Record) -> Result<(), Error> {
        let Emitter { output, routes, made } = self;
        for route in routes {
            match &route.step {
                None => made.push(record.clone()),
                Some(step) => step.run(record, &mut |record| made.push(record))?,
            }
            for mut record in made.drain(..) {
                record.input = route.input;
                for to in route.exchange.route(&record) {
                    output.put(route.vertex, to, &record);
                }
            }
        }
        Ok(())
    }

    /// Tells all tasks downstream what is new of event time. It may stay in a batch.
    pub fn time(&mut self, progress: Progress) {
        let element = match progress {
            Progress::Watermark(time_ms) => Element::Watermark(time_ms),
            Progress::Idle => Element::Idle,
        };
        self.output.put_to_all(&element);
    }
}

impl Deref for Emitter {
    type Target = Output;
    fn deref(&self) -> &Output {
        &self.output
    }
}

impl DerefMut for Emitter {
    fn deref_mut(&mut self) -> &mut Output {
        &mut self.output
    }
}
