//! Payloads: arguments and results, encoded as MessagePack with field names.

mod decode;
mod encode;

use std::collections::VecDeque;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::decode::{Decoder, exactly};
use self::encode::{Encoder, Notes};

/// A MessagePack value (<https://msgpack.org>), encoded once and then shared.
///
/// `Debug` prints the size only, so that the content stays out of logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(Bytes);

impl Payload {
    /// Encodes `value`, with structs' field names and with ids as text, so that reading it back
    /// without its type (as JSON or in a dynamic canvas) gives the same content.
    pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, String> {
        Self::encode_and_note(value).map(|(payload, _)| payload)
    }

    /// Encodes a value that is read back as a `T`, as [`encode`](Self::encode) does. Fails at once
    /// if a 128-bit integer could not be read back: serde buffers the content of an untagged,
    /// flattened or internally tagged type before it knows the type, and cannot buffer these
    /// integers.
    pub(crate) fn encode_readable<T: Serialize + DeserializeOwned>(
        value: &T,
    ) -> Result<Self, String> {
        let (payload, is_wide) = Self::encode_and_note(value)?;
        if is_wide {
            payload.decode::<T>().map_err(not_readable)?;
        }
        Ok(payload)
    }

    /// Encodes `value`; also returns whether it contains a 128-bit integer.
    pub(crate) fn encode_and_note<T: Serialize + ?Sized>(
        value: &T,
    ) -> Result<(Self, bool), String> {
        let mut bytes = Vec::new();
        let mut to = rmp_serde::Serializer::new(&mut bytes)
            .with_struct_map()
            .with_human_readable();
        let notes = Notes::default();
        let encoder = Encoder {
            to: &mut to,
            notes: &notes,
        };
        match value.serialize(encoder) {
            Ok(()) => Ok((Self::from(bytes), notes.is_wide.get())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Decodes the value; the error names the found and the expected type.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        decode(rmp_serde::Deserializer::from_read_ref(&self.0[..]))
    }

    /// Decodes an argument. As [`decode`](Self::decode), but refuses an integer that JSON cannot
    /// represent where the type takes any JSON.
    pub(crate) fn decode_exactly<T: DeserializeOwned>(&self) -> Result<T, String> {
        exactly(|| self.decode())
    }

    /// Splits `count` values encoded one after the other.
    pub(crate) fn split(&self, count: u32) -> Result<Vec<Self>, String> {
        self.values(&self.0, count)
    }

    /// Splits an encoded list into its elements, without decoding or copying them.
    pub(crate) fn elements(&self) -> Result<Vec<Self>, String> {
        let (count, elements) = self.list()?;
        elements.split(count)
    }

    /// Returns the number of elements of a list, and the list without its header.
    pub(crate) fn list(&self) -> Result<(u32, Self), String> {
        let mut rest: &[u8] = &self.0;
        let count = rmp::decode::read_array_len(&mut rest)
            .map_err(|_| "the value upstream is not a list".to_owned())?;
        Ok((count, Self(self.0.slice(self.0.len() - rest.len()..))))
    }

    /// Splits values encoded one after the other into the first one and the others.
    pub(crate) fn split_first(&self) -> Result<(Self, Self), String> {
        let mut rest: &[u8] = &self.0;
        skip(&mut rest)?;
        let end = self.0.len() - rest.len();
        Ok((Self(self.0.slice(..end)), Self(self.0.slice(end..))))
    }

    /// Splits an encoded map with text keys into its entries; nil has none.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Self)>, String> {
        let mut rest: &[u8] = &self.0;
        if rest == [rmp::Marker::Null.to_u8()] {
            return Ok(Vec::new());
        }
        let count = rmp::decode::read_map_len(&mut rest)
            .ok()
            .and_then(|count| count.checked_mul(2))
            .ok_or_else(|| "must be a map or a struct".to_owned())?;
        let mut values = self.values(rest, count)?.into_iter();
        let mut entries = Vec::new();
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            entries.push((key.decode()?, value));
        }
        Ok(entries)
    }

    /// Replaces the last of `count` values, a list, with its elements.
    pub(crate) fn spread_last(&self, count: u32) -> Result<(Self, u32), String> {
        let last = self.split(count)?.pop();
        let last = last.ok_or_else(|| "there is no list to spread".to_owned())?;
        let mut elements = last.bytes();
        let more = rmp::decode::read_array_len(&mut elements)
            .map_err(|_| "the last argument must be a list".to_owned())?;
        let kept = &self.0[..self.0.len() - last.0.len()];
        Ok((Self::from([kept, elements].concat()), count - 1 + more))
    }

    /// Splits off the `count` values at the start of `rest`, which is the end of this payload.
    fn values(&self, mut rest: &[u8], count: u32) -> Result<Vec<Self>, String> {
        let mut elements = Vec::new();
        for _ in 0..count {
            let start = self.0.len() - rest.len();
            skip(&mut rest)?;
            elements.push(Self(self.0.slice(start..self.0.len() - rest.len())));
        }
        Ok(elements)
    }

    /// Returns the kind of the value, in words.
    pub(crate) fn kind(&self) -> &'static str {
        self.0
            .first()
            .map_or("nothing", |first| in_words(rmp::Marker::from_u8(*first)))
    }

    /// Returns the encoded bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the payload that consists of these bytes of it.
    pub(crate) fn part(&self, bytes: &[u8]) -> Self {
        Self(self.0.slice_ref(bytes))
    }
}

fn decode<'de, T: DeserializeOwned, R: rmp_serde::decode::ReadSlice<'de>>(
    reader: rmp_serde::Deserializer<R>,
) -> Result<T, String> {
    use rmp_serde::decode::Error;
    let mut reader = reader.with_human_readable();
    T::deserialize(Decoder(&mut reader)).map_err(|error| match error {
        // The error's own text names the marker byte, which means nothing to a user.
        Error::TypeMismatch(marker) => format!(
            "{} does not fit into {}",
            in_words(marker),
            std::any::type_name::<T>()
        ),
        error => error.to_string(),
    })
}

/// Returns the reason for refusing a value with a 128-bit integer.
pub(crate) fn not_readable(error: String) -> String {
    format!(
        "it could not be read again: {error}. (serde cannot read 128-bit integers inside \
         untagged, flattened or internally tagged types: store them as text, or with an adjacent tag.)"
    )
}

/// Returns the kind of value that begins with this marker.
fn in_words(marker: rmp::Marker) -> &'static str {
    use rmp::Marker;
    match marker {
        Marker::Null => "nothing (nil)",
        Marker::True | Marker::False => "a boolean",
        Marker::F32 | Marker::F64 => "a float",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a string",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "bytes",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "a list",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => "an integer",
        _ => "an extension value",
    }
}

/// Builds a list by concatenating encoded elements.
#[derive(Debug, Default)]
pub(crate) struct ListWriter {
    /// Full parts. Growing one buffer would copy a value of many megabytes.
    parts: Vec<Vec<u8>>,
    last: Vec<u8>,
}

/// The size at which a part is full, in bytes.
const PART: usize = 1 << 20;

impl ListWriter {
    /// Starts a list of `len` elements, about `bytes` bytes in total.
    pub(crate) fn new(len: usize, bytes: usize) -> Self {
        let mut list = Self {
            parts: Vec::new(),
            last: Vec::with_capacity((bytes + 5).min(PART)),
        };
        list.begin(len);
        list
    }

    /// Starts without a list header: the pushed bytes are the value.
    pub(crate) fn raw() -> Self {
        Self::default()
    }

    /// Returns the number of bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Vec::len).sum::<usize>() + self.last.len()
    }

    /// Begins a nested list; `len` elements follow.
    pub(crate) fn begin(&mut self, len: usize) {
        let len = u32::try_from(len).expect("a MessagePack list holds at most 2^32 - 1 elements");
        rmp::encode::write_array_len(&mut self.last, len).expect("a Vec takes every write");
    }

    /// Appends bytes that are one encoded element or a part of one.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.last.len() + bytes.len() > PART && !self.last.is_empty() {
            self.parts.push(std::mem::take(&mut self.last));
        }
        self.last.extend_from_slice(bytes);
    }

    /// Returns the finished value in one piece.
    pub(crate) fn finish(self) -> Payload {
        if self.parts.is_empty() {
            return Payload::from(self.last);
        }
        let mut parts = self.parts;
        parts.push(self.last);
        Payload::from(parts.concat())
    }

    /// Returns the finished value in parts, to be read once.
    pub(crate) fn finish_parts(self) -> Parts {
        let mut parts = VecDeque::from(self.parts);
        parts.push_back(self.last);
        Parts { parts, read: 0 }
    }
}

/// An encoded value that is read once. Each part is freed after it has been read, so that a large
/// value is not in memory twice while it is decoded.
pub(crate) struct Parts {
    parts: VecDeque<Vec<u8>>,
    /// How many bytes of the first part have been read.
    read: usize,
}

impl Parts {
    /// Decodes the value; the error names the found and the expected type.
    pub(crate) fn decode<T: DeserializeOwned>(mut self) -> Result<T, String> {
        match self.parts.pop_front() {
            // The usual case, and the fast one.
            Some(only) if self.parts.is_empty() => Payload::from(only).decode(),
            Some(first) => {
                self.parts.push_front(first);
                decode(rmp_serde::Deserializer::new(self))
            }
            None => Err("there is no value".to_owned()),
        }
    }

    /// Decodes as [`decode`](Self::decode) does; also returns the value if it is in one piece and
    /// does not fit.
    pub(crate) fn decode_or_back<T: DeserializeOwned>(
        mut self,
    ) -> Result<T, (String, Option<Payload>)> {
        if self.parts.len() > 1 {
            return self.decode().map_err(|error| (error, None));
        }
        let only = Payload::from(self.parts.pop_front().unwrap_or_default());
        only.decode().map_err(|error| (error, Some(only)))
    }

    /// Returns the number of elements of the list.
    pub(crate) fn len(&self) -> Result<u32, String> {
        let mut first = self
            .parts
            .front()
            .map_or(&[][..], |part| &part[self.read..]);
        rmp::decode::read_array_len(&mut first).map_err(|_| "there is no list".to_owned())
    }

    /// Removes the list header and returns the elements.
    pub(crate) fn without_head(mut self) -> Result<Self, String> {
        rmp::decode::read_array_len(&mut self).map_err(|_| "there is no list".to_owned())?;
        Ok(self)
    }

    /// Adds a list header for `len` elements.
    pub(crate) fn with_head(mut self, len: usize) -> Self {
        if let Some(first) = self.parts.front_mut() {
            first.drain(..self.read);
        }
        self.read = 0;
        self.parts.push_front(ListWriter::new(len, 0).last);
        self
    }

    /// Splits off all elements after the first `count`, in one piece.
    pub(crate) fn split_off(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        for part in self.parts.drain(..) {
            all.extend_from_slice(&part[std::mem::take(&mut self.read)..]);
        }
        let mut rest = &all[..];
        for _ in 0..count {
            skip(&mut rest)?;
        }
        let behind = all.split_off(all.len() - rest.len());
        self.parts.push_back(all);
        Ok(behind)
    }

    /// Appends bytes that are whole elements.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.parts.push_back(bytes.to_vec());
    }
}

impl io::Read for Parts {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.parts.front() {
            let rest = &part[self.read..];
            if rest.is_empty() {
                self.parts.pop_front();
                self.read = 0;
                continue;
            }
            let count = rest.len().min(out.len());
            out[..count].copy_from_slice(&rest[..count]);
            self.read += count;
            return Ok(count);
        }
        Ok(0)
    }
}

impl From<Payload> for Parts {
    fn from(payload: Payload) -> Self {
        Self {
            parts: VecDeque::from([payload.0.into()]),
            read: 0,
        }
    }
}

/// Advances `rest` past one value.
fn skip(rest: &mut &[u8]) -> Result<(), String> {
    use rmp::Marker;
    let mut pending = 1u64;
    while pending > 0 {
        pending -= 1;
        let marker =
            rmp::decode::read_marker(rest).map_err(|_| "a list ends too early".to_owned())?;
        let (bytes, nested) = match marker {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                (0, 0)
            }
            Marker::U8 | Marker::I8 => (1, 0),
            Marker::U16 | Marker::I16 | Marker::FixExt1 => (2, 0),
            Marker::FixExt2 => (3, 0),
            Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
            Marker::FixExt4 => (5, 0),
            Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
            Marker::FixExt8 => (9, 0),
            Marker::FixExt16 => (17, 0),
            Marker::FixStr(len) => (u64::from(len), 0),
            Marker::Str8 | Marker::Bin8 => (length(rest, 1)?, 0),
            Marker::Str16 | Marker::Bin16 => (length(rest, 2)?, 0),
            Marker::Str32 | Marker::Bin32 => (length(rest, 4)?, 0),
            Marker::Ext8 => (length(rest, 1)? + 1, 0),
            Marker::Ext16 => (length(rest, 2)? + 1, 0),
            Marker::Ext32 => (length(rest, 4)? + 1, 0),
            Marker::FixArray(len) => (0, u64::from(len)),
            Marker::Array16 => (0, length(rest, 2)?),
            Marker::Array32 => (0, length(rest, 4)?),
            Marker::FixMap(len) => (0, 2 * u64::from(len)),
            Marker::Map16 => (0, 2 * length(rest, 2)?),
            Marker::Map32 => (0, 2 * length(rest, 4)?),
            Marker::Reserved => return Err("a reserved MessagePack marker".to_owned()),
        };
        take(rest, bytes)?;
        pending += nested;
    }
    Ok(())
}

fn length(rest: &mut &[u8], width: u64) -> Result<u64, String> {
    Ok(take(rest, width)?
        .iter()
        .fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], count: u64) -> Result<&'a [u8], String> {
    let (taken, left) = usize::try_from(count)
        .ok()
        .and_then(|count| rest.split_at_checked(count))
        .ok_or_else(|| "a list ends too early".to_owned())?;
    *rest = left;
    Ok(taken)
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::from(bytes))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload::from(bytes))
            }
        }

        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[cfg(test)]
mod shapes;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_is_built_and_taken_apart_without_re_encoding() {
        let parts: Vec<_> = ["a".repeat(3), "b".repeat(300), "c".repeat(70_000)]
            .iter()
            .map(|text| Payload::encode(text).unwrap())
            .collect();
        let mut list = ListWriter::new(parts.len(), 0);
        parts.iter().for_each(|part| list.push(part.bytes()));
        let list = list.finish();
        assert_eq!(list.elements().unwrap(), parts);
        assert_eq!(list.decode::<Vec<String>>().unwrap()[2].len(), 70_000);
    }

    #[test]
    fn a_value_in_parts_is_the_value() {
        let texts: Vec<String> = (0..9).map(|i| "x".repeat(i * PART / 4)).collect();
        let write = || {
            let mut list = ListWriter::new(texts.len(), 0);
            for text in &texts {
                Payload::encode(text)
                    .unwrap()
                    .bytes()
                    .chunks(7_000)
                    .for_each(|piece| list.push(piece));
            }
            list
        };
        assert!(write().parts.len() > 5);
        assert_eq!(write().finish().decode::<Vec<String>>().unwrap(), texts);
        assert_eq!(
            write().finish_parts().decode::<Vec<String>>().unwrap(),
            texts
        );
        let error = write().finish_parts().decode::<Vec<i64>>().unwrap_err();
        assert_eq!(error, "a string does not fit into alloc::vec::Vec<i64>");
    }

    #[test]
    fn a_value_that_is_no_list_is_reported() {
        let number = Payload::encode(&7).unwrap();
        assert_eq!(
            number.elements().unwrap_err(),
            "the value upstream is not a list"
        );
    }

    #[test]
    fn debug_shows_no_content() {
        let secret = Payload::encode("canary").unwrap();
        assert_eq!(format!("{secret:?}"), "<7 bytes>");
    }

    type Row = (Option<i64>, f64, String, Vec<(bool, u16)>);

    proptest! {
        #[test]
        fn elements_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Payload::from(bytes).elements();
        }

        #[test]
        fn elements_agree_with_serde(value in proptest::collection::vec(any::<Row>(), 0..20)) {
            let list = Payload::encode(&value).unwrap();
            let again: Vec<Row> = list.elements().unwrap().iter()
                .map(|element| element.decode().unwrap()).collect();
            prop_assert_eq!(again, value);
        }
    }
}
