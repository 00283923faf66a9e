//! Arguments: JSON with kombu's tagged types, as MessagePack.
//!
//! Python writes a datetime, a UUID or bytes as `{"__type__": …, "__value__": …}`
//! (kombu/utils/json.py). serde has no such types, so each becomes the form from which Rust's types
//! for it are read: a text, or a list of bytes. Integers are read from their digits, because
//! serde_json would read one of more than 64 bits as a float.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::object::shown;
use crate::canvas::freeze::CanvasError;
use crate::canvas::payload::Payload;

/// The maximum nesting of lists and objects in an argument, as in serde_json: each level is a level
/// of recursion here and where the argument is decoded.
const MAX_NESTING: usize = 128;

const TYPE: &str = "__type__";
const VALUE: &str = "__value__";

/// The path of a value, for example `args[0].price`.
#[derive(Clone, Copy)]
enum JsonPath<'a> {
    Root(&'a str),
    Element(&'a JsonPath<'a>, usize),
    Entry(&'a JsonPath<'a>, &'a str),
}

impl fmt::Display for JsonPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Element(list, index) => write!(f, "{list}[{index}]"),
            Self::Entry(object, name) => write!(f, "{object}.{name}"),
        }
    }
}

/// Encodes the JSON value named `name`, for example `args`.
pub(super) fn payload(raw: &RawValue, name: &str) -> Result<Payload, CanvasError> {
    let mut bytes = Vec::new();
    write(raw, JsonPath::Root(name), MAX_NESTING, &mut bytes)?;
    Ok(bytes.into())
}

/// Returns the text of a tagged datetime, or `None` for any other value.
pub(super) fn datetime(raw: &RawValue) -> Option<String> {
    let entries: Entries<'_> = serde_json::from_str(raw.get()).ok()?;
    let (kind, value) = entries.tagged()?;
    let text = serde_json::from_str(value.get()).ok()?;
    (kind.get() == "\"datetime\"").then_some(text)
}

fn write(
    raw: &RawValue,
    path: JsonPath<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), CanvasError> {
    const WRITTEN: &str = "a Vec takes every write";
    match raw.get() {
        "null" => rmp::encode::write_nil(out).expect(WRITTEN),
        text @ ("true" | "false") => rmp::encode::write_bool(out, text == "true").expect(WRITTEN),
        text if text.starts_with('"') => {
            write_text(&read::<String>(raw, path, "a text")?, path, out)?
        }
        text if text.starts_with('[') => {
            let depth = deeper(path, depth)?;
            let elements: Vec<&RawValue> = read(raw, path, "a list")?;
            let len = length(elements.len(), path)?;
            rmp::encode::write_array_len(out, len).expect(WRITTEN);
            for (i, element) in elements.into_iter().enumerate() {
                write(element, JsonPath::Element(&path, i), depth, out)?;
            }
        }
        text if text.starts_with('{') => {
            let depth = deeper(path, depth)?;
            let entries: Entries<'_> = read(raw, path, "an object")?;
            if let Some((kind, value)) = entries.tagged() {
                return write_tagged(kind, value, path, out);
            }
            let len = length(entries.0.len(), path)?;
            rmp::encode::write_map_len(out, len).expect(WRITTEN);
            for (name, entry) in &entries.0 {
                let path = JsonPath::Entry(&path, name);
                write_text(name, path, out)?;
                write(entry, path, depth, out)?;
            }
        }
        number => write_number(number, path, out)?,
    }
    Ok(())
}

fn write_number(text: &str, path: JsonPath<'_>, out: &mut Vec<u8>) -> Result<(), CanvasError> {
    let encoded = if text.contains(['.', 'e', 'E']) {
        let float: f64 = serde_json::from_str(text)
            .map_err(|_| refused(path, text, "more than a float holds"))?;
        Payload::encode(&float)
    } else if let Ok(int) = text.parse::<i64>() {
        Payload::encode(&int)
    } else if let Ok(int) = text.parse::<u64>() {
        Payload::encode(&int)
    } else if let Ok(int) = text.parse::<i128>() {
        Payload::encode(&int)
    } else if let Ok(int) = text.parse::<u128>() {
        Payload::encode(&int)
    } else {
        let reason = "an integer of more than 128 bits, and no type takes that";
        return Err(refused(path, text, reason));
    };
    let encoded = encoded.map_err(|error| refused(path, text, &error))?;
    out.extend_from_slice(encoded.bytes());
    Ok(())
}

fn refused(path: JsonPath<'_>, number: &str, reason: &str) -> CanvasError {
    let number = match number.len() {
        ..=60 => number,
        _ => "a long number",
    };
    CanvasError::at_top(&format!("`{path}` is {number}: {reason}"))
}

/// Writes one of kombu's tagged values in the form from which Rust's type for it is read.
fn write_tagged(
    kind: &RawValue,
    value: &RawValue,
    path: JsonPath<'_>,
    out: &mut Vec<u8>,
) -> Result<(), CanvasError> {
    let kind: String = read(kind, JsonPath::Entry(&path, TYPE), "a text")?;
    let path = JsonPath::Entry(&path, VALUE);
    let text = |expected: &str, is_one: fn(&str) -> bool| {
        let text: String = read(value, path, expected)?;
        match is_one(&text) {
            true => Ok(text),
            false => Err(wrong(value, path, expected)),
        }
    };
    match kind.as_str() {
        "datetime" => write_text(&text("a datetime in ISO 8601", is_datetime)?, path, out),
        // Older versions of kombu wrote a date with a time.
        "date" => {
            const EXPECTED: &str = "a date in ISO 8601";
            let date = read::<String>(value, path, EXPECTED)?.parse::<Date>();
            let date = date.map_err(|_| wrong(value, path, EXPECTED))?;
            write_text(&date.to_string(), path, out)
        }
        "time" => write_text(&text("a time of day in ISO 8601", is_time)?, path, out),
        "decimal" => write_text(&text("a decimal number in a text", is_number)?, path, out),
        "uuid" => {
            let uuid = uuid(value);
            let uuid = uuid.ok_or_else(|| wrong(value, path, "an object with a UUID in `hex`"))?;
            write_text(&uuid.to_string(), path, out)
        }
        "bytes" => write_bytes(text("a text", |_| true)?.as_bytes(), path, out),
        "base64" => {
            const EXPECTED: &str = "bytes in base64";
            let bytes = base64(&read::<String>(value, path, EXPECTED)?);
            let bytes = bytes.ok_or_else(|| wrong(value, path, EXPECTED))?;
            write_bytes(&bytes, path, out)
        }
        kind => {
            let JsonPath::Entry(tagged, _) = path else {
                unreachable!("a tagged value is an entry")
            };
            Err(CanvasError::at_top(&format!(
                "`{tagged}` has Celery's type `{kind}`, which is not known here; there can be \
                 datetime, date, time, decimal, uuid, bytes, base64"
            )))
        }
    }
}

/// Returns whether the text is a datetime, with or without an offset.
fn is_datetime(text: &str) -> bool {
    text.parse::<Timestamp>().is_ok() || text.parse::<DateTime>().is_ok()
}

fn is_time(text: &str) -> bool {
    text.parse::<Time>().is_ok()
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

fn uuid(value: &RawValue) -> Option<Uuid> {
    let Entries(entries) = serde_json::from_str(value.get()).ok()?;
    let [(name, hex)] = &entries[..] else {
        return None;
    };
    let hex: String = serde_json::from_str(hex.get()).ok()?;
    (name == "hex").then(|| Uuid::parse_str(&hex).ok())?
}

/// Decodes a text in base64 (RFC 4648, section 4) that ends with its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.as_bytes()[..text.len() - padding].chunks(4) {
        let mut bits = 0u32;
        for byte in four {
            let digit = DIGITS.iter().position(|digit| digit == byte)?;
            bits = bits << 6 | digit as u32;
        }
        bits <<= 6 * (4 - four.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

fn write_text(text: &str, path: JsonPath<'_>, out: &mut Vec<u8>) -> Result<(), CanvasError> {
    rmp::encode::write_str(out, text)
        .map_err(|error| CanvasError::at_top(&format!("`{path}` cannot be stored: {error}")))
}

/// Writes bytes as a list, from which `Vec<u8>` and every type that takes bytes can be read.
fn write_bytes(bytes: &[u8], path: JsonPath<'_>, out: &mut Vec<u8>) -> Result<(), CanvasError> {
    let encoded = Payload::encode(bytes)
        .map_err(|error| CanvasError::at_top(&format!("`{path}` cannot be stored: {error}")))?;
    out.extend_from_slice(encoded.bytes());
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    path: JsonPath<'_>,
    expected: &str,
) -> Result<T, CanvasError> {
    serde_json::from_str(raw.get()).map_err(|_| wrong(raw, path, expected))
}

fn wrong(raw: &RawValue, path: JsonPath<'_>, expected: &str) -> CanvasError {
    let actual = shown(raw);
    CanvasError::at_top(&format!("`{path}` must be {expected}, but is {actual}"))
}

fn deeper(path: JsonPath<'_>, depth: usize) -> Result<usize, CanvasError> {
    depth.checked_sub(1).ok_or_else(|| {
        let mut path = path;
        while let JsonPath::Element(outer, _) | JsonPath::Entry(outer, _) = path {
            path = *outer;
        }
        CanvasError::at_top(&format!(
            "`{path}` cannot be read: lists and objects nest at most {MAX_NESTING} deep"
        ))
    })
}

fn length(len: usize, path: JsonPath<'_>) -> Result<u32, CanvasError> {
    u32::try_from(len)
        .map_err(|_| CanvasError::at_top(&format!("`{path}` has more than 2^32 - 1 elements")))
}

/// The unread entries of a JSON object, in the order written. If a key occurs twice, the last value
/// counts, as in Python.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Entries<'a> {
    /// Returns the type and the value if this is one of kombu's tagged values.
    fn tagged(&self) -> Option<(&'a RawValue, &'a RawValue)> {
        let entry = |key| self.0.iter().find(|(name, _)| name == key);
        match (self.0.len(), entry(TYPE), entry(VALUE)) {
            (2, Some((_, kind)), Some((_, value))) => Some((kind, value)),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries: Vec<(String, &RawValue)> = Vec::new();
                let mut positions: HashMap<String, usize> = HashMap::new();
                while let Some((name, raw)) = map.next_entry::<String, &RawValue>()? {
                    match positions.entry(name) {
                        Entry::Occupied(position) => entries[*position.get()].1 = raw,
                        Entry::Vacant(vacant) => {
                            let name = vacant.key().clone();
                            vacant.insert(entries.len());
                            entries.push((name, raw));
                        }
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn encoded(text: &str) -> Result<Payload, String> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        payload(raw, "args").map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn plain_json_is_encoded_as_serde_encodes_it() {
        for value in [
            json!(null),
            json!([
                true,
                false,
                -1,
                0,
                1.5,
                u64::MAX,
                i64::MIN,
                1e300,
                "é\n\u{1f600}"
            ]),
            json!({"z": {"__type__": "datetime"}, "a": [[], {}, {"x": [null]}]}),
            json!({"__type__": 1, "__value__": 2, "more": 3}),
        ] {
            let ours = encoded(&value.to_string()).unwrap();
            assert_eq!(ours, Payload::encode(&value).unwrap(), "{value}");
        }
        let twice = encoded(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap();
        assert_eq!(twice.decode::<Value>().unwrap(), json!({"a": 3, "b": 2}));
    }

    #[test]
    fn integers_keep_every_digit_or_are_refused_with_their_path() {
        for int in [
            i64::MIN.into(),
            i64::MAX.into(),
            i128::MIN,
            i128::MAX,
            1 << 70,
        ] {
            assert_eq!(encoded(&int.to_string()).unwrap().decode(), Ok(int));
        }
        assert_eq!(
            encoded(&u128::MAX.to_string()).unwrap().decode(),
            Ok(u128::MAX)
        );
        let long = format!("[0, {{\"x\": [{}0]}}]", u128::MAX);
        let error = encoded(&long).unwrap_err();
        let expected = format!(
            "`args[1].x[0]` is {}0: an integer of more than 128 bits, and no type takes that",
            u128::MAX
        );
        assert_eq!(error, expected);
        let error = encoded(&"9".repeat(1_000)).unwrap_err();
        assert!(error.starts_with("`args` is a long number: "), "{error}");
        let error = encoded("[1e400]").unwrap_err();
        assert_eq!(error, "`args[0]` is 1e400: more than a float holds");
    }

    fn tagged(kind: &str, value: Value) -> Result<Payload, String> {
        encoded(&json!([{"__type__": kind, "__value__": value}]).to_string())
    }

    #[test]
    fn tagged_values_can_be_read_as_their_types() {
        let hex = "00112233445566778899aabbccddeeff";
        for (kind, value, text) in [
            (
                "datetime",
                json!("2026-11-30T15:06:10.177237+00:00"),
                "2026-11-30T15:06:10.177237+00:00",
            ),
            (
                "datetime",
                json!("2026-11-30T15:06:10"),
                "2026-11-30T15:06:10",
            ),
            ("date", json!("2026-11-30"), "2026-11-30"),
            ("date", json!("2026-11-30T00:00:00"), "2026-11-30"),
            ("time", json!("15:06:10.177237"), "15:06:10.177237"),
            ("decimal", json!("-12.50"), "-12.50"),
            (
                "uuid",
                json!({"hex": hex}),
                "00112233-4455-6677-8899-aabbccddeeff",
            ),
        ] {
            assert_eq!(
                tagged(kind, value).unwrap().decode(),
                Ok([text.to_owned()]),
                "{kind}"
            );
        }
        for (kind, value, bytes) in [
            ("bytes", "hé", "hé".as_bytes()),
            ("base64", "", &[]),
            ("base64", "/w==", &[255]),
            ("base64", "//8=", &[255, 255]),
            ("base64", "AAECAwQF", &[0, 1, 2, 3, 4, 5]),
        ] {
            let read = tagged(kind, value.into()).unwrap();
            assert_eq!(read.decode(), Ok([bytes.to_vec()]), "{value}");
            assert_eq!(
                read.decode(),
                Ok([serde_bytes::ByteBuf::from(bytes)]),
                "{value}"
            );
        }
    }

    #[test]
    fn an_invalid_tagged_value_is_refused_with_its_path() {
        for (kind, value, expected) in [
            (
                "datetime",
                json!("soon"),
                "must be a datetime in ISO 8601, but is \"soon\"",
            ),
            (
                "datetime",
                json!(5),
                "must be a datetime in ISO 8601, but is 5",
            ),
            (
                "date",
                json!("30.11.2026"),
                "must be a date in ISO 8601, but is \"30.11.2026\"",
            ),
            (
                "time",
                json!("noon"),
                "must be a time of day in ISO 8601, but is \"noon\"",
            ),
            (
                "decimal",
                json!("1,5"),
                "must be a decimal number in a text, but is \"1,5\"",
            ),
            (
                "uuid",
                json!({"hex": "12"}),
                "must be an object with a UUID in `hex`, but is an object",
            ),
            (
                "base64",
                json!("a"),
                "must be bytes in base64, but is \"a\"",
            ),
            (
                "base64",
                json!("===="),
                "must be bytes in base64, but is \"====\"",
            ),
            (
                "base64",
                json!("a\u{e9}=="),
                "must be bytes in base64, but is \"aé==\"",
            ),
        ] {
            let error = tagged(kind, value).unwrap_err();
            assert_eq!(error, format!("`args[0].__value__` {expected}"));
        }
        let error = tagged("model", json!({})).unwrap_err();
        assert!(
            error.starts_with("`args[0]` has Celery's type `model`, which is not known"),
            "{error}"
        );
        let error = encoded(r#"[{"__type__": 1, "__value__": 2}]"#).unwrap_err();
        assert_eq!(error, "`args[0].__type__` must be a text, but is 1");
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |levels: usize| encoded(&("[".repeat(levels) + &"]".repeat(levels)));
        assert!(nested(MAX_NESTING).is_ok());
        let error = nested(MAX_NESTING + 1).unwrap_err();
        assert_eq!(
            error,
            "`args` cannot be read: lists and objects nest at most 128 deep"
        );
    }
}
