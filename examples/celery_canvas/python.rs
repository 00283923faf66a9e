//! Python's numbers, texts and exceptions, over JSON values.

use serde_json::{Value, json};

/// What a Python function raises.
#[derive(Debug, PartialEq)]
pub(crate) struct Exception {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

pub(crate) type Result<T = Value> = std::result::Result<T, Exception>;

impl Exception {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// An int stays an int, and becomes a float beside a float.
#[derive(Clone, Copy)]
enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(truth) => Some(Self::Int(i64::from(*truth))),
            Value::Number(number) => number
                .as_i64()
                .map(Self::Int)
                .or_else(|| number.as_f64().map(Self::Float)),
            _ => None,
        }
    }

    fn as_float(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

pub(crate) fn add(x: &Value, y: &Value) -> Result {
    binary("+", x, y, i64::checked_add, |x, y| x + y)
}

pub(crate) fn sub(x: &Value, y: &Value) -> Result {
    binary("-", x, y, i64::checked_sub, |x, y| x - y)
}

pub(crate) fn mul(x: &Value, y: &Value) -> Result {
    binary("*", x, y, i64::checked_mul, |x, y| x * y)
}

pub(crate) fn neg(x: &Value) -> Result {
    match Number::of(x) {
        Some(Number::Int(int)) => Ok(json!(int.checked_neg().ok_or_else(overflow)?)),
        Some(Number::Float(float)) => Ok(json!(-float)),
        None => Err(type_error(&format!(
            "bad operand type for unary -: '{}'",
            type_name(x)
        ))),
    }
}

/// `x // y`.
pub(crate) fn floor_div(x: &Value, y: &Value) -> Result {
    if Number::of(y).is_some_and(|y| y.as_float() == 0.0) {
        return Err(Exception::new("ZeroDivisionError", "division by zero"));
    }
    let ints = |x: i64, y: i64| {
        let quotient = x.checked_div(y)?;
        let is_below = x % y != 0 && (x < 0) != (y < 0);
        Some(quotient - i64::from(is_below))
    };
    binary("//", x, y, ints, |x, y| (x / y).floor())
}

pub(crate) fn is_negative(x: &Value) -> Result<bool> {
    match Number::of(x) {
        Some(number) => Ok(number.as_float() < 0.0),
        None => Err(type_error(&format!(
            "'<' not supported between instances of '{}' and 'int'",
            type_name(x)
        ))),
    }
}

pub(crate) fn is_positive(x: &Value) -> Result<bool> {
    Ok(Number::of(x).is_some() && !is_negative(x)? && *x != json!(0))
}

/// `sum(xs)`.
pub(crate) fn sum(xs: &Value) -> Result {
    items(xs)?
        .iter()
        .try_fold(json!(0), |total, x| add(&total, x))
}

/// The sum over lists within lists.
pub(crate) fn tree_sum(tree: &Value) -> Result {
    match tree {
        Value::Array(trees) => trees
            .iter()
            .try_fold(json!(0), |total, tree| add(&total, &tree_sum(tree)?)),
        number => Ok(number.clone()),
    }
}

/// `len(xs)`.
pub(crate) fn len(xs: &Value) -> Result<usize> {
    match xs {
        Value::Array(list) => Ok(list.len()),
        Value::Object(dict) => Ok(dict.len()),
        Value::String(text) => Ok(text.chars().count()),
        other => Err(type_error(&format!(
            "object of type '{}' has no len()",
            type_name(other)
        ))),
    }
}

/// `xs[i]`.
pub(crate) fn item(xs: &Value, i: &Value) -> Result {
    match (xs, i) {
        (Value::Object(dict), Value::String(key)) => {
            let found = dict.get(key).cloned();
            found.ok_or_else(|| Exception::new("KeyError", key))
        }
        (Value::Array(_), Value::Number(_)) => {
            let list = items(xs)?;
            let at = i.as_i64().unwrap_or(i64::MAX);
            let at = if at < 0 { at + list.len() as i64 } else { at };
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            found
                .cloned()
                .ok_or_else(|| Exception::new("IndexError", "list index out of range"))
        }
        _ => Err(type_error(&format!(
            "'{}' object is not subscriptable with '{}'",
            type_name(xs),
            type_name(i)
        ))),
    }
}

/// What a `for` loop over it sees.
pub(crate) fn items(xs: &Value) -> Result<Vec<Value>> {
    match xs {
        Value::Array(list) => Ok(list.clone()),
        Value::Object(dict) => Ok(dict.keys().map(|key| json!(key)).collect()),
        Value::String(text) => Ok(text.chars().map(|char| json!(char)).collect()),
        other => Err(type_error(&format!(
            "'{}' object is not iterable",
            type_name(other)
        ))),
    }
}

/// `str(value)`.
pub(crate) fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// `repr(value)`.
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => float_repr(float),
            _ => number.to_string(),
        },
        Value::String(text) => string_repr(text),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(dict) => {
            let pairs = dict.iter();
            let pairs = pairs.map(|(key, value)| format!("{}: {}", string_repr(key), repr(value)));
            let pairs: Vec<_> = pairs.collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse().unwrap_or(0) {
        -4..16 => format!("{float:?}"),
        exponent if exponent < 0 => format!("{digits}e-{:02}", -exponent),
        exponent => format!("{digits}e+{exponent:02}"),
    }
}

fn string_repr(text: &str) -> String {
    let quote = match (text.contains('\''), text.contains('"')) {
        (true, false) => '"',
        _ => '\'',
    };
    let mut repr = String::from(quote);
    for char in text.chars() {
        match char {
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            '\\' => repr.push_str("\\\\"),
            char if char == quote => repr.extend(['\\', quote]),
            char if char.is_control() => repr.push_str(&format!("\\x{:02x}", char as u32)),
            char => repr.push(char),
        }
    }
    repr.push(quote);
    repr
}

fn binary(
    sign: &str,
    x: &Value,
    y: &Value,
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
) -> Result {
    match (Number::of(x), Number::of(y)) {
        (Some(Number::Int(x)), Some(Number::Int(y))) => Ok(json!(ints(x, y).ok_or_else(overflow)?)),
        (Some(x), Some(y)) => Ok(json!(floats(x.as_float(), y.as_float()))),
        _ => Err(type_error(&format!(
            "unsupported operand type(s) for {sign}: '{}' and '{}'",
            type_name(x),
            type_name(y)
        ))),
    }
}

/// Python has no such limit; the values of a store do.
fn overflow() -> Exception {
    Exception::new("OverflowError", "more than 64 bits")
}

fn type_error(message: &str) -> Exception {
    Exception::new("TypeError", message)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        let cases = [
            (json!(12), "12"),
            (json!(10.0), "10.0"),
            (json!(0.1), "0.1"),
            (json!(1e16), "1e+16"),
            (json!(1.5e-7), "1.5e-07"),
            (json!([1, 2, [3, 4]]), "[1, 2, [3, 4]]"),
            (json!(["a", null, true]), "['a', None, True]"),
            (
                json!(["it's", "\"", "it's \"so\""]),
                r#"["it's", '"', 'it\'s "so"']"#,
            ),
            (json!(["a\nb\\", "\u{1}é"]), r"['a\nb\\', '\x01é']"),
            (json!({"x": 6, "a": null}), "{'x': 6, 'a': None}"),
        ];
        for (value, text) in cases {
            assert_eq!(repr(&value), text);
        }
        assert_eq!(str(&json!("it's")), "it's");
    }

    #[test]
    fn division_rounds_down() {
        for (x, y, quotient) in [
            (7, 2, 3),
            (-7, 2, -4),
            (7, -2, -4),
            (-7, -2, 3),
            (6, -3, -2),
        ] {
            assert_eq!(
                floor_div(&json!(x), &json!(y)),
                Ok(json!(quotient)),
                "{x} // {y}"
            );
        }
        assert_eq!(floor_div(&json!(-7.0), &json!(2)), Ok(json!(-4.0)));
        assert!(floor_div(&json!(1), &json!(0)).is_err());
    }

    #[test]
    fn an_int_beside_a_float_becomes_one() {
        assert_eq!(mul(&json!(2.5), &json!(4)), Ok(json!(10.0)));
        assert_eq!(mul(&json!(3), &json!(4)), Ok(json!(12)));
        assert_eq!(tree_sum(&json!([1, [2.5, [3]], []])), Ok(json!(6.5)));
    }

    #[test]
    fn an_index_counts_from_either_end() {
        let list = json!([1, 2, 3]);
        assert_eq!(item(&list, &json!(-1)), Ok(json!(3)));
        assert_eq!(item(&list, &json!(3)).unwrap_err().kind, "IndexError");
        assert_eq!(item(&json!({"k": 1}), &json!("k")), Ok(json!(1)));
    }
}
