//! The processes of a cluster, and how they talk.

pub mod client;
pub mod console;
pub mod coordinator;
pub mod leadership;
pub mod local;
pub mod points;
#[expect(missing_docs, reason = "the types of a message's fields say what they are")]
pub mod rpc;
pub mod worker;
pub mod worker_machine;
