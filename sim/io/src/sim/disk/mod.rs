//! stub
use super::{Env, Key, NodeId, Survivors};
/// Config
#[derive(Clone, Debug, Default)]
pub struct Config {}
/// Disks
#[derive(Debug, Default)]
pub struct Disks {}
impl Disks {
    pub(crate) fn configure(&self, _: Key, _: Config) {}
    pub(crate) fn process_ended(&self, _: NodeId) {}
    pub(crate) fn power_fail(&self, _: &Env, _: NodeId, _: Survivors) {}
}
