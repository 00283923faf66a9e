//! Reads MessagePack as `rmp-serde` does, and additionally values that JSON cannot represent or
//! writes differently: keys that are not text, bytes, and 128-bit integers.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{
    BytesDeserializer, MapAccessDeserializer, SeqAccessDeserializer, SeqDeserializer,
};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::Payload;
use super::encode::{SIGNED, UNSIGNED};

thread_local! {
    /// See [`exactly`].
    static IS_EXACT: Cell<bool> = const { Cell::new(false) };
}

/// Calls `read` in exact mode: an integer that JSON cannot represent is refused instead of read as
/// text. (serde passes no setting on to the readers of nested values.)
pub(super) fn exactly<T>(read: impl FnOnce() -> T) -> T {
    let before = IS_EXACT.replace(true);
    let value = read();
    IS_EXACT.set(before);
    value
}

/// Reads a value from `D`.
pub(super) struct Decoder<D>(pub(super) D);

/// Reads the key of a map from `D`: as in JSON, a number may be written as text, and is read as
/// text if text is requested.
struct Key<D>(D);

/// Passes a value from the deserializer on to the visitor `V`.
struct Forward<V> {
    visitor: V,
    requested: Requested,
}

/// The requested type.
#[derive(Clone, Copy)]
enum Requested {
    /// A type that MessagePack and serde represent in the same way.
    Plain,
    /// The type of the stored value.
    Any,
    I128,
    U128,
    /// As a key, where it may be written as text.
    KeyInteger,
    KeyI128,
    KeyU128,
    KeyFloat,
    KeyBool,
    KeyText,
    /// A newtype around a key.
    KeyNewtype,
}

/// A 128-bit integer.
#[derive(Clone, Copy)]
enum Wide {
    Signed(i128),
    Unsigned(u128),
}

impl Wide {
    fn of(tag: i8, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.try_into().ok()?;
        match tag {
            SIGNED => Some(Self::Signed(i128::from_be_bytes(bytes))),
            UNSIGNED => Some(Self::Unsigned(u128::from_be_bytes(bytes))),
            _ => None,
        }
    }

    fn visit<'de, V: Visitor<'de>, E: de::Error>(self, visitor: V) -> Result<V::Value, E> {
        match self {
            Self::Signed(value) => visitor.visit_i128(value),
            Self::Unsigned(value) => visitor.visit_u128(value),
        }
    }

    /// Visits it as a number if JSON can represent it, otherwise as text, which is an error in
    /// [exact](exactly) mode.
    fn visit_json<'de, V: Visitor<'de>, E: de::Error>(self, visitor: V) -> Result<V::Value, E> {
        if let Self::Signed(value) = self {
            if let Ok(value) = i64::try_from(value) {
                return visitor.visit_i64(value);
            }
            if let Ok(value) = u64::try_from(value) {
                return visitor.visit_u64(value);
            }
        }
        if IS_EXACT.get() {
            return Err(E::custom(format_args!(
                "no JSON value holds {self}: it takes more than 64 bits"
            )));
        }
        visitor.visit_string(self.to_string())
    }
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
        }
    }
}

/// The expectation by which the visitor of `serde_json::Value` is recognized. JSON has no bytes, so
/// the visitor receives them as `serde_json` writes them: as a list of numbers.
const ANY_JSON: &str = "any valid JSON value";

/// The expectation of the visitor for a key of its objects: JSON has no key that is a list or a map
/// either.
const JSON_KEY: &str = "a string key";

fn takes_json<'de, V: Visitor<'de>>(visitor: &V) -> bool {
    expects(visitor, ANY_JSON)
}

fn expects<'de, V: Visitor<'de>>(visitor: &V, what: &str) -> bool {
    struct Expecting<'a, V>(&'a V);

    impl<'de, V: Visitor<'de>> fmt::Display for Expecting<'_, V> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.expecting(f)
        }
    }

    Expecting(visitor).to_string() == what
}

macro_rules! ask {
    ($($method:ident: $requested:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Forward { visitor, requested: Requested::$requested })
        })*
    };
    (any $($method:ident: $requested:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_any(Forward { visitor, requested: Requested::$requested })
        })*
    };
}

/// The requests that are the same for values and keys.
macro_rules! ask_alike {
    () => {
        fn deserialize_unit_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            let requested = Requested::Plain;
            self.0
                .deserialize_unit_struct(name, Forward { visitor, requested })
        }

        fn deserialize_tuple<V: Visitor<'de>>(
            self,
            len: usize,
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            let requested = Requested::Plain;
            self.0
                .deserialize_tuple(len, Forward { visitor, requested })
        }

        fn deserialize_tuple_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            len: usize,
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            let requested = Requested::Plain;
            self.0
                .deserialize_tuple_struct(name, len, Forward { visitor, requested })
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            let requested = Requested::Plain;
            self.0
                .deserialize_struct(name, fields, Forward { visitor, requested })
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            name: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            let requested = Requested::Plain;
            self.0
                .deserialize_enum(name, variants, Forward { visitor, requested })
        }

        fn is_human_readable(&self) -> bool {
            self.0.is_human_readable()
        }
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Decoder<D> {
    type Error = D::Error;

    ask! {
        deserialize_bool: Plain
        deserialize_i8: Plain deserialize_i16: Plain deserialize_i32: Plain deserialize_i64: Plain
        deserialize_u8: Plain deserialize_u16: Plain deserialize_u32: Plain deserialize_u64: Plain
        deserialize_f32: Plain deserialize_f64: Plain deserialize_char: Plain
        deserialize_str: Plain deserialize_string: Plain
        deserialize_bytes: Plain deserialize_byte_buf: Plain
        deserialize_option: Plain deserialize_unit: Plain deserialize_seq: Plain
        deserialize_map: Plain deserialize_identifier: Plain deserialize_ignored_any: Plain
        deserialize_any: Any
    }
    ask! { any deserialize_i128: I128 deserialize_u128: U128 }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let requested = Requested::Plain;
        self.0
            .deserialize_newtype_struct(name, Forward { visitor, requested })
    }

    ask_alike!();
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<D> {
    type Error = D::Error;

    ask! {
        deserialize_char: Plain deserialize_bytes: Plain deserialize_byte_buf: Plain
        deserialize_option: Plain deserialize_unit: Plain deserialize_seq: Plain
        deserialize_map: Plain deserialize_identifier: Plain deserialize_ignored_any: Plain
        deserialize_any: Any
    }
    ask! { any
        deserialize_bool: KeyBool
        deserialize_i8: KeyInteger deserialize_i16: KeyInteger deserialize_i32: KeyInteger
        deserialize_i64: KeyInteger deserialize_i128: KeyI128
        deserialize_u8: KeyInteger deserialize_u16: KeyInteger deserialize_u32: KeyInteger
        deserialize_u64: KeyInteger deserialize_u128: KeyU128
        deserialize_f32: KeyFloat deserialize_f64: KeyFloat
        deserialize_str: KeyText deserialize_string: KeyText
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let requested = Requested::KeyNewtype;
        self.0
            .deserialize_newtype_struct(name, Forward { visitor, requested })
    }

    ask_alike!();
}

impl<'de, V: Visitor<'de>> Forward<V> {
    /// Visits a number or a boolean, or its text if a text key is requested.
    fn scalar<E: de::Error>(
        self,
        text: impl fmt::Display,
        show: impl FnOnce(V) -> Result<V::Value, E>,
    ) -> Result<V::Value, E> {
        match self.requested {
            Requested::KeyText => self.visitor.visit_string(text.to_string()),
            _ => show(self.visitor),
        }
    }

    /// Visits text, or the key that it represents.
    fn text<E: de::Error>(
        self,
        text: &str,
        show: impl FnOnce(V) -> Result<V::Value, E>,
    ) -> Result<V::Value, E> {
        match self.requested {
            Requested::KeyInteger | Requested::KeyI128 | Requested::KeyU128 => {
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_i64(value);
                }
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_u64(value);
                }
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_i128(value);
                }
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_u128(value);
                }
            }
            Requested::KeyFloat => {
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_f64(value);
                }
            }
            Requested::KeyBool => {
                if let Ok(value) = text.parse() {
                    return self.visitor.visit_bool(value);
                }
            }
            _ => {}
        }
        show(self.visitor)
    }

    fn bytes<E: de::Error>(
        self,
        bytes: &[u8],
        show: impl FnOnce(V) -> Result<V::Value, E>,
    ) -> Result<V::Value, E> {
        let requested = self.requested;
        match (requested, <[u8; 16]>::try_from(bytes)) {
            // An earlier version wrote 128-bit integers like this.
            (Requested::I128 | Requested::KeyI128, Ok(bytes)) => {
                self.visitor.visit_i128(i128::from_be_bytes(bytes))
            }
            (Requested::U128 | Requested::KeyU128, Ok(bytes)) => {
                self.visitor.visit_u128(u128::from_be_bytes(bytes))
            }
            (Requested::Any, _) if takes_json(&self.visitor) => {
                self.visitor.visit_seq(numbers(bytes))
            }
            _ => show(self.visitor),
        }
    }

    /// Visits the JSON text of a key that is neither text nor a number.
    fn json_text<E: de::Error>(self, key: Result<serde_json::Value, E>) -> Result<V::Value, E> {
        self.visitor.visit_string(key?.to_string())
    }
}

fn numbers<'a, E: de::Error>(
    bytes: &'a [u8],
) -> SeqDeserializer<impl Iterator<Item = u8> + use<'a, E>, E> {
    SeqDeserializer::new(bytes.iter().copied())
}

macro_rules! show_scalars {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.scalar(value, |visitor| visitor.$method(value))
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Forward<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    show_scalars! {
        visit_bool(bool)
        visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128)
    }

    fn visit_f32<E: de::Error>(self, value: f32) -> Result<V::Value, E> {
        self.scalar(format_args!("{value:?}"), |visitor| {
            visitor.visit_f32(value)
        })
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.scalar(format_args!("{value:?}"), |visitor| {
            visitor.visit_f64(value)
        })
    }

    fn visit_char<E: de::Error>(self, value: char) -> Result<V::Value, E> {
        self.visitor.visit_char(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.text(value, |visitor| visitor.visit_str(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.text(value, |visitor| visitor.visit_borrowed_str(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<V::Value, E> {
        match self.requested {
            Requested::Plain | Requested::Any | Requested::KeyText => {
                self.visitor.visit_string(value)
            }
            _ => self.visit_str(&value),
        }
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<V::Value, E> {
        self.bytes(value, |visitor| visitor.visit_bytes(value))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, value: &'de [u8]) -> Result<V::Value, E> {
        self.bytes(value, |visitor| visitor.visit_borrowed_bytes(value))
    }

    fn visit_byte_buf<E: de::Error>(self, value: Vec<u8>) -> Result<V::Value, E> {
        self.visit_bytes(&value)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.scalar("null", V::visit_none)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.scalar("null", V::visit_unit)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Decoder(value))
    }

    /// Visits a newtype struct if one is requested; otherwise the value is an extension.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        match self.requested {
            Requested::Plain => return self.visitor.visit_newtype_struct(Decoder(value)),
            Requested::KeyNewtype => return self.visitor.visit_newtype_struct(Key(value)),
            _ => {}
        }
        let (tag, bytes) = <(i8, Payload)>::deserialize(value)?;
        match Wide::of(tag, bytes.bytes()) {
            Some(wide) if matches!(self.requested, Requested::KeyText) => {
                self.visitor.visit_string(wide.to_string())
            }
            Some(wide) if matches!(self.requested, Requested::Any) && takes_json(&self.visitor) => {
                wide.visit_json(self.visitor)
            }
            Some(wide) => wide.visit(self.visitor),
            None => {
                let extension = Extension {
                    tag: Some(tag),
                    bytes: Some(bytes),
                    error: PhantomData,
                };
                let extension = SeqAccessDeserializer::new(extension);
                self.visitor.visit_newtype_struct(extension)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        match self.requested {
            Requested::KeyText if expects(&self.visitor, JSON_KEY) => self.json_text(
                Deserialize::deserialize(SeqAccessDeserializer::new(Parts(seq))),
            ),
            _ => self.visitor.visit_seq(Parts(seq)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        match self.requested {
            Requested::KeyText if expects(&self.visitor, JSON_KEY) => self.json_text(
                Deserialize::deserialize(MapAccessDeserializer::new(Parts(map))),
            ),
            _ => self.visitor.visit_map(Parts(map)),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Parts(data))
    }
}

/// The parts of a list, a map or an enum.
struct Parts<A>(A);

/// The reader of a part.
struct Part<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Part<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Decoder(from))
    }
}

/// The reader of a key.
struct KeyPart<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for KeyPart<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Key(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Parts<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Part(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Parts<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(KeyPart(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Part(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Parts<A> {
    type Error = A::Error;
    type Variant = Parts<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, data) = self.0.variant_seed(seed)?;
        Ok((name, Parts(data)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Parts<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Part(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let requested = Requested::Plain;
        self.0.tuple_variant(len, Forward { visitor, requested })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let requested = Requested::Plain;
        self.0
            .struct_variant(fields, Forward { visitor, requested })
    }
}

/// An unknown extension in the form of `rmp-serde`: its type, then its bytes.
struct Extension<E> {
    tag: Option<i8>,
    bytes: Option<Payload>,
    error: PhantomData<E>,
}

impl<'de, E: de::Error> SeqAccess<'de> for Extension<E> {
    type Error = E;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, E> {
        if let Some(tag) = self.tag.take() {
            return seed.deserialize(tag.into_deserializer()).map(Some);
        }
        let bytes = self.bytes.take();
        let read = bytes.map(|bytes| seed.deserialize(BytesDeserializer::new(bytes.bytes())));
        read.transpose()
    }
}
