//! Writes MessagePack as `rmp-serde` does, except for 128-bit integers and for values that nest too
//! deep to be read.

use std::cell::Cell;

use serde::ser::{self, Serialize, Serializer};

/// The maximum nesting of a value, including the list of arguments around it: the same as in
/// `serde_json`. Each level takes some kilobytes of a thread's stack in an unoptimised build, here
/// and where the value is read.
pub(crate) const MAX_DEPTH: usize = 128;

/// The extension types of an `i128`, and of a `u128` that does not fit one: 16 bytes, big-endian.
pub(super) const SIGNED: i8 = b'i' as i8;
pub(super) const UNSIGNED: i8 = b'u' as i8;

/// Facts about a value, noted while it is written.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Whether it contains a 128-bit integer.
    pub(super) is_wide: Cell<bool>,
    depth: Cell<usize>,
}

impl Notes {
    fn enter<E: ser::Error>(&self) -> Result<(), E> {
        let depth = self.depth.get() + 1;
        self.depth.set(depth);
        if depth > MAX_DEPTH {
            return Err(E::custom(format!("values nest at most {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn leave(&self) {
        self.depth.set(self.depth.get() - 1);
    }
}

/// Writes through `S` and updates the notes.
pub(super) struct Encoder<'a, S> {
    pub(super) to: S,
    pub(super) notes: &'a Notes,
}

/// A part of the value.
struct Part<'a, T: ?Sized> {
    value: &'a T,
    notes: &'a Notes,
}

impl<T: Serialize + ?Sized> Serialize for Part<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let notes = self.notes;
        self.value.serialize(Encoder { to, notes })
    }
}

/// An extension in the form of `rmp-serde`.
struct Wide([u8; 16]);

impl Serialize for Wide {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

/// A list, a map or a struct within the value.
pub(super) struct Compound<'a, C> {
    to: C,
    notes: &'a Notes,
}

impl<'a, C> Compound<'a, C> {
    fn begin<E: ser::Error>(
        notes: &'a Notes,
        begin: impl FnOnce() -> Result<C, E>,
    ) -> Result<Self, E> {
        notes.enter()?;
        let to = begin()?;
        Ok(Self { to, notes })
    }
}

macro_rules! forward {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.to.$method(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Encoder<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'a, S::SerializeSeq>;
    type SerializeTuple = Compound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'a, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'a, S::SerializeMap>;
    type SerializeStruct = Compound<'a, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'a, S::SerializeStructVariant>;

    forward! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32)
        serialize_i64(i64) serialize_u8(u8) serialize_u16(u16) serialize_u32(u32)
        serialize_u64(u64) serialize_f32(f32) serialize_f64(f64) serialize_char(char)
        serialize_str(&str) serialize_bytes(&[u8]) serialize_unit_struct(&'static str)
    }

    fn serialize_i128(self, value: i128) -> Result<S::Ok, S::Error> {
        self.notes.is_wide.set(true);
        let wide = (SIGNED, Wide(value.to_be_bytes()));
        self.to
            .serialize_newtype_struct(rmp_serde::MSGPACK_EXT_STRUCT_NAME, &wide)
    }

    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        if let Ok(value) = i128::try_from(value) {
            return self.serialize_i128(value);
        }
        self.notes.is_wide.set(true);
        let wide = (UNSIGNED, Wide(value.to_be_bytes()));
        self.to
            .serialize_newtype_struct(rmp_serde::MSGPACK_EXT_STRUCT_NAME, &wide)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_none()
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let notes = self.notes;
        self.to.serialize_some(&Part { value, notes })
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let notes = self.notes;
        self.to
            .serialize_newtype_struct(name, &Part { value, notes })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let notes = self.notes;
        notes.enter()?;
        let part = Part { value, notes };
        let done = self
            .to
            .serialize_newtype_variant(name, index, variant, &part)?;
        notes.leave();
        Ok(done)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Compound::begin(self.notes, || self.to.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        Compound::begin(self.notes, || self.to.serialize_tuple(len))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        Compound::begin(self.notes, || self.to.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Compound::begin(self.notes, || {
            self.to.serialize_tuple_variant(name, index, variant, len)
        })
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Compound::begin(self.notes, || self.to.serialize_map(len))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        Compound::begin(self.notes, || self.to.serialize_struct(name, len))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Compound::begin(self.notes, || {
            self.to.serialize_struct_variant(name, index, variant, len)
        })
    }

    fn is_human_readable(&self) -> bool {
        self.to.is_human_readable()
    }
}

/// Compounds whose parts have no names.
macro_rules! unnamed {
    ($($trait:ident $method:ident)*) => {
        $(impl<C: ser::$trait> ser::$trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let notes = self.notes;
                self.to.$method(&Part { value, notes })
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.notes.leave();
                self.to.end()
            }
        })*
    };
}

unnamed! {
    SerializeSeq serialize_element
    SerializeTuple serialize_element
    SerializeTupleStruct serialize_field
    SerializeTupleVariant serialize_field
}

/// Compounds whose parts have names.
macro_rules! named {
    ($($trait:ident)*) => {
        $(impl<C: ser::$trait> ser::$trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                let notes = self.notes;
                self.to.serialize_field(name, &Part { value, notes })
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.to.skip_field(name)
            }

            fn end(self) -> Result<C::Ok, C::Error> {
                self.notes.leave();
                self.to.end()
            }
        })*
    };
}

named! { SerializeStruct SerializeStructVariant }

impl<C: ser::SerializeMap> ser::SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let notes = self.notes;
        self.to.serialize_key(&Part { value, notes })
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let notes = self.notes;
        self.to.serialize_value(&Part { value, notes })
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.notes.leave();
        self.to.end()
    }
}
