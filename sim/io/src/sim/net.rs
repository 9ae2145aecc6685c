//! stub
use super::{Env, Key, NodeId};
/// Config
#[derive(Clone, Debug, Default)]
pub struct Config {}
/// Network
#[derive(Debug, Default)]
pub struct Network {}
impl Network {
    pub(crate) fn configure(&self, _: Key, _: Config) {}
    pub(crate) fn process_ended(&self, _: &Env, _: NodeId) {}
}
