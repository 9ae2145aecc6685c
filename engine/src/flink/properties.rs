//! What a checkpoint was taken for: a Java object at the end of the metadata, from version 4.

use std::collections::BTreeMap;

use super::java::{self, Object, Value};
use super::reader::{Malformed, Reader};

/// What a checkpoint was taken for, and when it may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Such as `Checkpoint`, `Savepoint` or `Suspend`.
    pub kind: String,
    /// Of a savepoint: `CANONICAL` or `NATIVE`.
    pub format: Option<String>,
    /// Such as `forced`, `unclaimed`, `discardSubsumed`.
    pub flags: BTreeMap<String, bool>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Properties, Malformed> {
    let Object { fields, .. } = java::read(reader)?;
    let (mut kind, mut format) = (String::new(), None);
    let mut flags = BTreeMap::new();
    for (name, value) in &fields {
        match value {
            Value::Bool(is) => drop(flags.insert(name.to_string(), *is)),
            Value::Object(of) => {
                if let Some(Value::Text(name)) = of.fields.get("name") {
                    kind = name.to_string();
                }
                if let Some(Value::Constant(name)) = of.fields.get("formatType") {
                    format = Some(name.to_string());
                }
            }
            // Before Flink 1.15 an enumeration.
            Value::Constant(name) => kind = name.to_string(),
            _ => {}
        }
    }
    Ok(Properties { kind, format, flags })
}
