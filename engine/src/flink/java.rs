//! A serialised Java object, as far as its fields are plain: numbers, texts, constants of enumerations, and objects of such.
//!
//! ```text
//! 0xaced | version 5 | one object: description of its class (name, fields, superclass), then the fields' values
//! ```
//! Descriptions and texts that were written before are referenced by a number in the order of their appearance.
//!
//! No class is loaded and nothing is run: what comes out is names and values. Arrays, proxies and classes that write themselves in a
//! way of their own are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reader::{MAX_DEPTH, Malformed, Reader, Reason};

const FIRST_HANDLE: i32 = 0x7e_0000;
const NULL: u8 = 0x70;
const REFERENCE: u8 = 0x71;
const CLASS: u8 = 0x72;
const OBJECT: u8 = 0x73;
const TEXT: u8 = 0x74;
const END: u8 = 0x78;
const CONSTANT: u8 = 0x7e;

const WRITES_ITSELF: u8 = 0x01;
const SERIALIZABLE: u8 = 0x02;

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// None.
    Null,
    /// A truth.
    Bool(bool),
    /// Any number that is whole, or a character.
    Whole(i64),
    /// The bits of a `float` or a `double`.
    Bits(u64),
    /// A string.
    Text(Arc<str>),
    /// A constant of an enumeration.
    Constant(Arc<str>),
    /// An object.
    Object(Arc<Object>),
    /// An object that was written before.
    Seen,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Full name of its class.
    pub class: Arc<str>,
    /// Fields of the class and its superclasses.
    pub fields: BTreeMap<Arc<str>, Value>,
}

#[derive(Debug)]
struct Class {
    name: Arc<str>,
    flags: u8,
    fields: Vec<(u8, Arc<str>)>,
    superclass: Option<Arc<Class>>,
}

/// Something that can be referenced.
#[derive(Clone)]
enum Handle {
    /// It is not yet complete.
    Open,
    Class(Arc<Class>),
    Text(Arc<str>),
    Object,
}

/// The next object.
///
/// # Errors
/// If the bytes are not such an object.
pub fn read(reader: &mut Reader<'_>) -> Result<Object, Malformed> {
    let (offset, what) = (reader.offset(), "the header of a serialised object");
    let header = reader.i32(what)?;
    if header as u32 != 0xaced_0005 {
        return Err(Reader::wrong(offset, what, Reason::Unknown { found: header.into() }));
    }
    let offset = reader.offset();
    match (Stream { reader, handles: Vec::new() }).value(0)? {
        // Nothing else holds it: references to objects are not kept.
        Value::Object(object) => Ok(Arc::unwrap_or_clone(object)),
        _ => Err(Reader::wrong(offset, "a serialised object", Reason::Unexpected { wanted: "an object" })),
    }
}

struct Stream<'r, 'a> {
    reader: &'r mut Reader<'a>,
    handles: Vec<Handle>,
}

impl Stream<'_, '_> {
    fn value(&mut self, depth: u32) -> Result<Value, Malformed> {
        let (offset, what) = (self.reader.offset(), "a serialised value");
        if depth >= MAX_DEPTH {
            return Err(Reader::wrong(offset, what, Reason::Depth));
        }
        match self.reader.u8(what)? {
            NULL => Ok(Value::Null),
            TEXT => {
                let text: Arc<str> = self.reader.utf("a serialised string")?.into();
                self.handles.push(Handle::Text(text.clone()));
                Ok(Value::Text(text))
            }
            REFERENCE => match self.reference(what)? {
                Handle::Text(text) => Ok(Value::Text(text)),
                Handle::Object => Ok(Value::Seen),
                Handle::Class(_) | Handle::Open => {
                    Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "a value" }))
                }
            },
            CONSTANT => {
                self.class(0)?;
                self.handles.push(Handle::Object);
                let offset = self.reader.offset();
                match self.value(depth + 1)? {
                    Value::Text(name) => Ok(Value::Constant(name)),
                    _ => Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "a name" })),
                }
            }
            OBJECT => {
                let Some(class) = self.class(0)? else {
                    return Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "a class" }));
                };
                self.handles.push(Handle::Object);
                let mut fields = BTreeMap::new();
                self.fields(&class, &mut fields, depth)?;
                Ok(Value::Object(Arc::new(Object { class: class.name.clone(), fields })))
            }
            found => Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
        }
    }

    /// Values of the superclass come first.
    fn fields(
        &mut self,
        class: &Class,
        fields: &mut BTreeMap<Arc<str>, Value>,
        depth: u32,
    ) -> Result<(), Malformed> {
        if let Some(superclass) = &class.superclass {
            self.fields(superclass, fields, depth)?;
        }
        for (kind, name) in &class.fields {
            let what = "the value of a field";
            let value = match kind {
                b'Z' => Value::Bool(self.reader.u8(what)? != 0),
                b'B' => Value::Whole((self.reader.u8(what)? as i8).into()),
                b'C' => Value::Whole(self.reader.u16(what)?.into()),
                b'S' => Value::Whole((self.reader.u16(what)? as i16).into()),
                b'I' => Value::Whole(self.reader.i32(what)?.into()),
                b'J' => Value::Whole(self.reader.i64(what)?),
                b'F' => Value::Bits((self.reader.i32(what)? as u32).into()),
                b'D' => Value::Bits(self.reader.i64(what)? as u64),
                _ => self.value(depth + 1)?,
            };
            fields.insert(name.clone(), value);
        }
        if class.flags & WRITES_ITSELF != 0 {
            self.end("what a class writes itself")?;
        }
        Ok(())
    }

    fn reference(&mut self, what: &'static str) -> Result<Handle, Malformed> {
        let offset = self.reader.offset();
        let found = self.reader.i32("a reference")?;
        let index = usize::try_from(i64::from(found) - i64::from(FIRST_HANDLE)).ok();
        let handle = index.and_then(|index| self.handles.get(index)).cloned();
        handle.ok_or_else(|| Reader::wrong(offset, what, Reason::Range { found: found.into() }))
    }

    /// The description of a class, if there is one. `depth` counts superclasses.
    fn class(&mut self, depth: u32) -> Result<Option<Arc<Class>>, Malformed> {
        let (offset, what) = (self.reader.offset(), "a class");
        if depth >= MAX_DEPTH {
            return Err(Reader::wrong(offset, what, Reason::Depth));
        }
        match self.reader.u8(what)? {
            NULL => Ok(None),
            REFERENCE => match self.reference(what)? {
                Handle::Class(class) if ancestors(&class) + depth < MAX_DEPTH => Ok(Some(class)),
                _ => Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "a class" })),
            },
            CLASS => {
                let name = self.reader.utf("the name of a class")?.into();
                self.reader.i64("the version of a class")?;
                let handle = self.handles.len();
                self.handles.push(Handle::Open);
                let flags_offset = self.reader.offset();
                let flags = self.reader.u8("the flags of a class")?;
                if flags & SERIALIZABLE == 0 {
                    let reason = Reason::Unknown { found: flags.into() };
                    return Err(Reader::wrong(flags_offset, "the flags of a class", reason));
                }
                let count = self.reader.u16("the number of fields")?;
                let fields = (0..count).map(|_| self.field()).collect::<Result<_, _>>()?;
                self.end("an annotation of a class")?;
                let superclass = self.class(depth + 1)?;
                let class = Arc::new(Class { name, flags, fields, superclass });
                self.handles[handle] = Handle::Class(class.clone());
                Ok(Some(class))
            }
            found => Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
        }
    }

    /// A string, or a reference to one that came before.
    fn text(&mut self) -> Result<Option<Arc<str>>, Malformed> {
        match self.reader.u8("a serialised string")? {
            TEXT => {
                let text: Arc<str> = self.reader.utf("a serialised string")?.into();
                self.handles.push(Handle::Text(text.clone()));
                Ok(Some(text))
            }
            REFERENCE => match self.reference("a serialised string")? {
                Handle::Text(text) => Ok(Some(text)),
                Handle::Object | Handle::Class(_) | Handle::Open => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Its kind and name.
    fn field(&mut self) -> Result<(u8, Arc<str>), Malformed> {
        let (offset, what) = (self.reader.offset(), "the kind of a field");
        let kind = self.reader.u8(what)?;
        let name = self.reader.utf("the name of a field")?.into();
        match kind {
            b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' | b'Z' => {}
            // Only a string or a reference to one: a value of any kind would nest without end.
            b'L' => match self.text()? {
                Some(_) => {}
                None => return Err(Reader::wrong(offset, what, Reason::Unexpected { wanted: "a type" })),
            },
            found => return Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
        }
        Ok((kind, name))
    }

    fn end(&mut self, what: &'static str) -> Result<(), Malformed> {
        let offset = self.reader.offset();
        match self.reader.u8(what)? {
            END => Ok(()),
            found => Err(Reader::wrong(offset, what, Reason::Unknown { found: found.into() })),
        }
    }
}

fn ancestors(class: &Class) -> u32 {
    class.superclass.as_ref().map_or(0, |superclass| 1 + ancestors(superclass))
}
