//! The history of a run: what clients asked for, when, and what they were told.
//!
//! An oracle judges a history; it never looks inside the system. The answer to a call is one of three: `ok` (it took effect,
//! and this is what it returned), `fail` (it certainly had no effect), `info` (it may have had one, now or later). A call
//! without an answer is like `info`. Every entry is also an event of the trace, and so part of the digest; it is told there in
//! words, those of the call being its own.

use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex};

use cutwater_io::sim::{Env, NodeId, Told};

/// What clients did, in the order in which it happened. Clones share their entries.
#[derive(Debug)]
pub struct History<C, R> {
    entries: Arc<Mutex<Vec<Entry<C, R>>>>,
}

/// A call and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<C, R> {
    /// The client.
    pub actor: u16,
    /// What it asked for.
    pub call: C,
    /// When, in microseconds of virtual time.
    pub invoked_us: u64,
    /// When it had an answer.
    pub answered_us: Option<u64>,
    /// The answer.
    pub answer: Option<Answer<R>>,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<R> {
    /// It took effect, and returned this.
    Ok(R),
    /// It certainly had no effect.
    Fail(String),
    /// It may or may not have had an effect, or may yet have one.
    Info(String),
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(usize);

impl<C, R> Clone for History<C, R> {
    fn clone(&self) -> Self {
        History { entries: self.entries.clone() }
    }
}

impl<C, R> Default for History<C, R> {
    fn default() -> Self {
        History { entries: Arc::default() }
    }
}

impl<R: Debug> Answer<R> {
    /// What a client was told; of a call that returns nothing there is nothing more to tell.
    fn in_words(&self) -> String {
        match self {
            Answer::Ok(result) => match format!("{result:?}").as_str() {
                "()" => "done".into(),
                result => format!("done: {result}"),
            },
            Answer::Fail(why) => format!("certainly not done: {why}"),
            Answer::Info(why) => format!("not known whether done: {why}"),
        }
    }
}

impl<C: Display, R: Debug> History<C, R> {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// `actor` asks for `call`.
    pub fn invoke(&self, actor: u16, call: C) -> CallId {
        let mut entries = self.lock();
        let id = CallId(entries.len());
        emit("call", id, actor, &format!("client {actor}: {call}"));
        entries.push(Entry { actor, call, invoked_us: now_us(), answered_us: None, answer: None });
        id
    }

    /// The call took effect and returned `result`.
    pub fn ok(&self, id: CallId, result: R) {
        self.answer(id, "ok", Answer::Ok(result));
    }

    /// The call certainly had no effect.
    pub fn fail(&self, id: CallId, why: impl Display) {
        self.answer(id, "fail", Answer::Fail(why.to_string()));
    }

    /// Whether the call had an effect is unknown.
    pub fn info(&self, id: CallId, why: impl Display) {
        self.answer(id, "info", Answer::Info(why.to_string()));
    }

    fn answer(&self, id: CallId, kind: &str, answer: Answer<R>) {
        let mut entries = self.lock();
        let entry = &mut entries[id.0];
        assert!(entry.answer.is_none(), "a call is answered once");
        let text = format!("client {}: {} -> {}", entry.actor, entry.call, answer.in_words());
        entry.answer = Some(answer);
        entry.answered_us = Some(now_us());
        let actor = entry.actor;
        drop(entries);
        Env::current().owed().more("history", text.as_bytes());
        emit(kind, id, actor, &text);
    }
}

impl<C: Clone, R: Clone> History<C, R> {
    /// The entries so far, in order of invocation.
    pub fn entries(&self) -> Vec<Entry<C, R>> {
        self.lock().clone()
    }
}

impl<C, R> History<C, R> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry<C, R>>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn now_us() -> u64 {
    cutwater_io::time::now().as_micros()
}

fn emit(kind: &str, id: CallId, actor: u16, text: &str) {
    let env = Env::current();
    let node: NodeId = Env::node();
    env.emit(node, &format!("client.{kind}"), text.as_bytes(), || {
        Told::from(text.to_string())
            .with("call", id.0 as u64)
            .with("actor", u64::from(actor))
            .with("answer", kind)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_words() {
        let told = |answer: Answer<()>| answer.in_words();
        assert_eq!(told(Answer::Ok(())), "done");
        assert_eq!(Answer::Ok(7).in_words(), "done: 7");
        assert_eq!(told(Answer::Fail("no space".into())), "certainly not done: no space");
        assert_eq!(told(Answer::Info("deadline".into())), "not known whether done: deadline");
    }
}
