//! stub
use super::Key;
/// Config
#[derive(Clone, Debug, Default)]
pub struct Config {}
/// Objects
#[derive(Debug, Default)]
pub struct Objects {}
impl Objects {
    pub(crate) fn configure(&self, _: Key, _: Config) {}
}
