//! Shapes of values: each value that is written is read back unchanged, with its type and without,
//! or is refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;

fn read<T: DeserializeOwned>(value: impl Serialize) -> Result<T, String> {
    Payload::encode(&value)?.decode()
}

fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    assert_eq!(
        Payload::encode_readable(&value).unwrap().decode(),
        Ok(value)
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Plain {
    wide: u128,
    signed: i128,
    more: Vec<Option<u128>>,
    by: BTreeMap<u128, i128>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum External {
    New(u128),
    Tuple(i128, u8),
    Struct { wide: u128 },
    Unit,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Wide(u128),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    B(u128),
    F(f64),
    S(String),
    L(Vec<u8>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Internal {
    Wide { n: i128 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    n: u128,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    inner: Inner,
}

#[test]
fn wide_integers_are_read_as_they_were_written() {
    for wide in [0, 1, u64::MAX.into(), 1 << 64, u128::MAX >> 1, u128::MAX] {
        let signed = (wide >> 1) as i128;
        same(Plain {
            wide,
            signed: -signed,
            more: vec![Some(wide), None],
            by: [(wide, signed)].into(),
        });
        same(External::New(wide));
        same(External::Tuple(-signed, 7));
        same(External::Struct { wide });
        same(Adjacent::Wide(wide));
        same((Some(wide), i128::MIN));
    }
    same(External::Unit);
}

/// `B(1)` was read as `S("\0…\u{1}")`.
#[test]
fn wide_integers_that_serde_would_buffer_are_refused_when_they_are_written() {
    fn refused<T: Serialize + DeserializeOwned>(value: T) {
        let error = Payload::encode_readable(&value).unwrap_err();
        assert!(
            error.contains("128-bit integers inside untagged"),
            "{error}"
        );
    }
    for n in [1, u128::MAX] {
        refused(Untagged::B(n));
        refused(vec![Untagged::B(n)]);
        refused(Flat { inner: Inner { n } });
        refused(Internal::Wide { n: n as i128 });
    }
    // Values of the same types without wide integers are not refused.
    same(Untagged::F(1.5));
    same(Untagged::S("\0".into()));
    same(Untagged::L(vec![1, 2]));
}

#[test]
fn wide_integers_of_an_earlier_version_are_read() {
    for wide in [1, u128::MAX] {
        let old =
            Payload::from(rmp_serde::to_vec(&(wide, [(wide, wide as i128)].map(Some))).unwrap());
        let read: (u128, [Option<(u128, i128)>; 1]) = old.decode().unwrap();
        assert_eq!(read, (wide, [Some((wide, wide as i128))]));
        let old = BTreeMap::from([(wide, 1)]);
        let old = Payload::from(rmp_serde::to_vec(&old).unwrap());
        assert_eq!(old.decode(), Ok(BTreeMap::from([(wide, 1)])));
    }
}

/// The value of an untyped canvas is read as JSON.
#[test]
fn json_shows_bytes_wide_integers_and_keys_that_are_not_text() {
    let wide = |n: i128| read::<Value>(n).unwrap();
    assert_eq!(wide(7), json!(7));
    assert_eq!(wide(u64::MAX.into()), json!(u64::MAX));
    assert_eq!(wide(-(1 << 70)), json!("-1180591620717411303424"));
    assert_eq!(
        read::<Value>(u128::MAX).unwrap(),
        json!("340282366920938463463374607431768211455")
    );
    let bytes = serde_bytes::ByteBuf::from([0, 255]);
    assert_eq!(read::<Value>(&bytes).unwrap(), json!([0, 255]));
    assert_eq!(
        read::<Value>((Some(&bytes), [("in", &bytes)])).unwrap(),
        json!([[0, 255], [["in", [0, 255]]]])
    );
    assert_eq!(
        read::<Value>(BTreeMap::from([(-1, "a"), (2, "b")])).unwrap(),
        json!({"-1": "a", "2": "b"})
    );
    assert_eq!(
        read::<Value>(BTreeMap::from([(true, 1)])).unwrap(),
        json!({"true": 1})
    );
    assert_eq!(
        read::<Value>(BTreeMap::from([(Some(1), 1), (None, 2)])).unwrap(),
        json!({"1": 1, "null": 2})
    );
    assert_eq!(
        read::<Value>(BTreeMap::from([((1, "x"), 1)])).unwrap(),
        json!({"[1,\"x\"]": 1})
    );
    assert_eq!(
        read::<Value>(BTreeMap::from([(u128::MAX, 1)])).unwrap(),
        json!({(u128::MAX.to_string()): 1})
    );
    let mut nested = HashMap::new();
    nested.insert("n", BTreeMap::from([('x', [1.5])]));
    assert_eq!(read::<Value>(nested).unwrap(), json!({"n": {"x": [1.5]}}));
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct UserId(u64);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Color {
    Red,
}

/// JSON has only text keys.
#[test]
fn text_is_read_as_the_key_that_it_represents() {
    let json = json!({"1": 2});
    assert_eq!(read(&json), Ok(BTreeMap::from([(1i64, 2i64)])));
    assert_eq!(read(&json), Ok(HashMap::from([(1u8, 2u8)])));
    assert_eq!(read(&json), Ok(BTreeMap::from([(1u128, 2u128)])));
    assert_eq!(read(&json), Ok(BTreeMap::from([(UserId(1), 2)])));
    assert_eq!(read(&json), Ok(BTreeMap::from([("1".to_owned(), 2)])));
    assert_eq!(read(json!({"true": 0})), Ok(BTreeMap::from([(true, 0)])));
    assert_eq!(
        read(json!({"Red": 0})),
        Ok(BTreeMap::from([(Color::Red, 0)]))
    );
    let wide = json!({(u128::MAX.to_string()): 0});
    assert_eq!(read(&wide), Ok(BTreeMap::from([(u128::MAX, 0)])));
    // Only as a key, and only if the text represents one.
    assert!(read::<i64>("1").is_err());
    assert!(read::<Vec<i64>>(["1"]).is_err());
    assert!(read::<BTreeMap<u8, u8>>(json!({"256": 0})).is_err());
    let error = read::<BTreeMap<i64, i64>>(json!({"one": 0})).unwrap_err();
    assert!(error.contains("expected i64"), "{error}");
}

#[test]
fn other_self_describing_types_receive_the_stored_value() {
    /// Records the visit that it received.
    #[derive(Debug, PartialEq)]
    struct Seen(String);

    impl<'de> Deserialize<'de> for Seen {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Any;

            impl<'de> serde::de::Visitor<'de> for Any {
                type Value = Seen;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("anything")
                }

                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Seen, E> {
                    Ok(Seen(format!("bytes {bytes:?}")))
                }

                fn visit_i128<E>(self, wide: i128) -> Result<Seen, E> {
                    Ok(Seen(format!("wide {wide}")))
                }

                fn visit_newtype_struct<D: Deserializer<'de>>(
                    self,
                    extension: D,
                ) -> Result<Seen, D::Error> {
                    let both = <(i8, serde_bytes::ByteBuf)>::deserialize(extension)?;
                    Ok(Seen(format!("extension {both:?}")))
                }
            }

            deserializer.deserialize_any(Any)
        }
    }

    let seen = |value: Seen| value.0;
    assert_eq!(
        seen(read(serde_bytes::Bytes::new(&[1])).unwrap()),
        "bytes [1]"
    );
    assert_eq!(
        seen(read(1i128 << 70).unwrap()),
        format!("wide {}", 1i128 << 70)
    );
    let foreign = Payload::from(vec![0xd4, 5, 9]);
    assert!(seen(foreign.decode().unwrap()).starts_with("extension (5, "));
}

#[derive(Debug, Serialize, Deserialize)]
struct Nest {
    name: String,
    within: Option<Box<Nest>>,
}

fn nest(levels: usize) -> Nest {
    let mut nest = Nest {
        name: "innermost".into(),
        within: None,
    };
    for _ in 1..levels {
        nest = Nest {
            name: "around".into(),
            within: Some(Box::new(nest)),
        };
    }
    nest
}

#[test]
fn a_value_that_nests_as_deep_as_json_may_is_read_and_a_deeper_one_is_refused() {
    let deepest = encode::MAX_DEPTH;
    let read: Nest = read(nest(deepest)).unwrap();
    let levels = std::iter::successors(Some(&read), |nest| nest.within.as_deref()).count();
    assert_eq!(levels, deepest);
    let error = Payload::encode(&nest(deepest + 1)).unwrap_err();
    assert_eq!(error, "values nest at most 128 deep");
    // Values beside each other do not nest.
    let flat: Vec<Vec<Vec<u8>>> = vec![vec![vec![1]; 200]; 200];
    same(flat);
}

/// An earlier version stored deeper values; in an unoptimised build 300 levels were too many for a
/// thread of two megabytes.
#[test]
fn a_deeper_value_that_is_stored_is_read_on_the_stack_of_a_worker() {
    let old = rmp_serde::encode::to_vec_named(&nest(600)).unwrap();
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let thread = thread.spawn(move || Payload::from(old).decode::<Nest>().map(drop));
    assert_eq!(thread.unwrap().join().unwrap(), Ok(()));
}
